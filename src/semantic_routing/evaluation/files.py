"""Files that an interruption cannot leave half written, and images that may not open."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image, ImageOps


class UnreadableImageError(Exception):
    """An image file that does not open; the message says why."""


def write_text(path: Path, text: str) -> Path:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Writes JSON lines, whole or not at all."""
    return write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Appends one JSON line; a reader drops it if it was cut short."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that is appended to; one that an interruption cut short is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def read_image(path: Path) -> Image.Image:
    """The image as RGB, turned the way its EXIF orientation says.

    Raises:
        UnreadableImageError: it does not open, or not to its end.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path.name}: {error}") from error


def sha256(data: bytes | str) -> str:
    """Hexadecimal digest; text is hashed as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


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
            with path.open("a") as file:
                file.write("\n")

    def get(self, key: str) -> dict[str, Any] | None:
        """The entry of `key`, or None."""
        return self._entries.get(key)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Keeps an entry; a later one of the same key replaces it. Safe to use from several threads."""
        with self._lock:
            self._entries[key] = {"key": key, **entry}
            append_line(self.path, self._entries[key])


def work_key(**identity: Any) -> str:
    """A key for a piece of work by everything that its outcome depends on."""
    return sha256(json.dumps(identity, sort_keys=True))
