"""Files and folders that are whole or absent, whatever interrupts their writing, a power cut included."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

PARTIAL = ".partial"

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
"""Of a run's folder; a pipeline that was exported from it has the first, too."""

JsonObject = dict[str, Any]
"""A JSON object as Python has it: values are whatever JSON can hold."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place once it is written and on disk.

    Raises:
        OSError: the disk is full, or fails; the message names the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with naming(path):
            yield partial
            sync(partial)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # still there only where something failed
    sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`, which gets its name once all of it is on disk.

    Raises:
        ValueError: `path` exists; nothing of the user's is overwritten.
        OSError: the disk is full, or fails; the message names the path.
    """
    if path.exists():
        raise ValueError(f"{path} exists already; name a new folder.")
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # left by an interruption
    partial.mkdir(parents=True)
    try:
        with naming(path):
            yield partial
            for entry in sorted(partial.rglob("*"), reverse=True):
                sync(entry)
            sync(partial)
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # still there only where something failed
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says what could not be written where an error does not: that of a full disk names no file.

    Raises:
        OSError: without `strerror`; the message is a sentence.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}.") from error
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}.") from error


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> Path:
    """Writes a text file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: object) -> Path:
    """Writes a JSON file whole or not at all."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        ValueError: it is not JSON; the message names the file.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def read_json_object(path: Path) -> JsonObject:
    """The object in a JSON file.

    Raises:
        ValueError: it is not JSON, or not an object; the message names the file.
        OSError: it cannot be read.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not an object of keys and values.")
    return value


def sha256(data: bytes | str) -> str:
    """Hexadecimal digest; text is hashed as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
