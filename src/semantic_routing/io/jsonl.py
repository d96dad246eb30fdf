"""JSON lines: appended one at a time, read back without the line that an interruption cut short."""

import json
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from .files import JsonObject, naming, sha256, write_text


def to_line(record: JsonObject) -> str:
    """One record as one line."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_lines(path: Path, records: Iterable[JsonObject]) -> Path:
    """Writes records, whole or not at all."""
    return write_text(path, "".join(map(to_line, records)))


def append_line(path: Path, record: JsonObject) -> None:
    """Appends one record. Raises OSError, which names the file, where the disk is full."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(to_line(record))


def read_lines(path: Path) -> list[JsonObject]:
    """The records of a file that is appended to, without lines that are not whole; none where there is no file."""
    if not path.is_file():
        return []
    records = []
    # Bytes: an interruption may cut a character in two.
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


class Ledger:
    """Finished work by key, appended to a JSON-lines file as it comes, so that a second run pays only for the rest.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = {entry["key"]: entry for entry in read_lines(path) if "key" in entry}
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not path.read_bytes().endswith(b"\n"):
            # What was cut short must not swallow the next line.
            with path.open("ab") as file:
                file.write(b"\n")

    def get(self, key: str) -> JsonObject | None:
        """The entry of `key`, or None."""
        return self._entries.get(key)

    def add(self, key: str, entry: JsonObject) -> None:
        """Keeps an entry; a later one of the same key replaces it. Safe to use from several threads."""
        with self._lock:
            self._entries[key] = {"key": key, **entry}
            append_line(self.path, self._entries[key])


def work_key(**identity: object) -> str:
    """A key for a piece of work by everything that its outcome depends on."""
    return sha256(json.dumps(identity, sort_keys=True))
