"""Tar shards as the WebDataset format has them, and an index that finds any example by its number.

An example is the members of neighboring files that share a name up to its first dot: `0017.jpg`, `0017.txt`. The index
says for each where it starts and ends in its shard and how large its picture is, so that an example is one read. It is
made once, of the heads of members and pictures, and memory-mapped: its size costs a process no memory.
"""

import io
import json
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from huggingface_hub import cached_assets_path
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from webdataset.shardlists import expand_urls

from ..io.files import sha256, whole_file
from ..io.images import UnreadableImageError, image_size

INDEX = "sroute-index.safetensors"  # beside shards that `sroute pack` wrote
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("json", "txt", "text", "caption")
SECONDS_BETWEEN_SAVES = 60.0

_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # as webdataset splits names


class Shard(NamedTuple):
    """A shard's name, its size in bytes when it was indexed, and how many whole examples it has."""

    name: str
    size: int
    examples: int


class Index(NamedTuple):
    """All examples of some shards.

    Of an example, `rows` has where it starts and ends in its shard, in bytes, and its picture's width and height.
    `broken` names what is no example and says why, by the number of its shard.
    """

    shards: list[Shard]
    rows: Int[np.ndarray, "examples 4"]
    broken: list[list[str]]


def find_files(paths: Sequence[str], suffix: str) -> list[str]:
    """The addresses that folders, globs, `{0000..0099}` braces and URLs stand for, in their order.

    Raises:
        ValueError: one of them stands for nothing.
        OSError: one of them cannot be reached.
    """
    found: list[str] = []
    for address in (address for path in paths for address in expand_urls(path)):
        with reached(address) as (files, place):
            if "*" in place or files.isdir(place):
                places = sorted(files.glob(place if "*" in place else f"{place.rstrip('/')}/*.{suffix}"))
            else:
                places = [place] if files.exists(place) else []
        if not places:
            raise ValueError(f"There is no {address}: expected .{suffix} files, or a folder of some.")
        found += places if isinstance(files, LocalFileSystem) else map(files.unstrip_protocol, places)
    return list(dict.fromkeys(found))


def index_shards(urls: Sequence[str], beside: bool = False) -> Index:
    """The index of some shards, from where it is kept, or else made now and kept.

    An index that lies beside the shards is used where it is of these shards; else it is kept in the user's cache. Only
    one process makes it, while others wait. Stopped, it goes on where it was.

    Args:
        urls: of the shards.
        beside: keep it beside the shards.

    Raises:
        OSError: a shard cannot be reached.
    """
    folders = {url.rpartition("/")[0] for url in urls}
    names = [url.rpartition("/")[2] for url in urls] if len(folders) == 1 else list(urls)
    kept = cached_assets_path("semantic-routing", "data") / f"shards-{sha256(json.dumps(list(urls)))}.safetensors"
    path = Path(urls[0]).parent / INDEX if beside else kept
    with FileLock(kept.with_suffix(".lock")):
        wanted = [(name, _size(url)) for name, url in zip(names, urls, strict=True)]
        known = _load(path) or (_fetch(folders.pop(), kept) if len(folders) == 1 else None)
        if known is None or [shard[:2] for shard in known.shards] != wanted:
            _build(path, urls, wanted, known)
            known = _load(path)
    if known is None:
        raise ValueError(f"The index {path} cannot be read back.")
    return known


def read_example(url: str, start: int, stop: int) -> dict[str, bytes]:
    """The members of an example by suffix.

    Raises:
        OSError: the shard cannot be read.
        ValueError: it holds something else now than when it was indexed.
    """
    with reached(url) as (files, place):
        # The last member may lack the zeros that fill its block.
        blob = files.cat_file(place, start, stop).ljust(stop - start, b"\0")
    members: dict[str, bytes] = {}
    keys = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(blob), mode="r:") as tar:
            for member in tar:
                name, content = _MEMBER.fullmatch(member.name), tar.extractfile(member)
                if name and content:
                    keys.add(name[1])
                    members[name[2].lower()] = content.read()
    except tarfile.TarError as error:
        raise ValueError(f"the shard is damaged, or not what it was when it was indexed ({error})") from error
    if len(keys) != 1:
        raise ValueError("the shard is not what it was when it was indexed")
    return members


@contextmanager
def reached(url: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """The file system and the place of a URL; whatever the file system raises becomes an OSError of one sentence."""
    try:
        yield url_to_fs(url)
    except Exception as error:  # each raises what its own client raises
        raise OSError(f"{url} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error


def _size(url: str) -> int:
    with reached(url) as (files, place):
        return int(files.size(place) or 0)


def _load(path: Path) -> Index | None:
    """An index that was kept, with its rows as a view of the file's map; None where there is no sound one."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["index"])
            rows = file.get_tensor("rows").numpy()
            return Index([Shard(*shard) for shard in header["shards"]], rows, header["broken"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _fetch(folder: str, path: Path) -> Index | None:
    """The index that lies beside shards, copied where they are not of this machine; None where there is none."""
    if isinstance(url_to_fs(folder)[0], LocalFileSystem):
        return _load(Path(folder, INDEX))
    try:
        with reached(f"{folder}/{INDEX}") as (files, place):
            content = files.cat_file(place)
    except OSError:
        return None
    with whole_file(path) as partial:
        partial.write_bytes(content)
    return _load(path)


class _Part(NamedTuple):
    """Of an index the part that is of one shard."""

    shard: Shard
    rows: Int[np.ndarray, "examples 4"]
    broken: list[str]


def _build(path: Path, urls: Sequence[str], wanted: Sequence[tuple[str, int]], known: Index | None) -> None:
    """Indexes shards, but for those that are in an index already, and saves now and then."""
    old: dict[tuple[str, int], _Part] = {}
    if known is not None:
        rows = np.split(known.rows, np.cumsum([shard.examples for shard in known.shards])[:-1])
        old = {part.shard[:2]: part for part in map(_Part, known.shards, rows, known.broken)}
    done: list[_Part] = []
    saved = time.monotonic()
    numbers = track(range(len(urls)), "indexing shards", console=Console(stderr=True), transient=True)
    for number in numbers:
        done.append(old.get(wanted[number]) or _index_shard(urls[number], *wanted[number]))
        if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
            _save(path, done)
            saved = time.monotonic()
    _save(path, done)


def _save(path: Path, done: Sequence[_Part]) -> None:
    shards, rows, broken = zip(*done, strict=True)
    with whole_file(path) as partial:
        tensors = {"rows": torch.from_numpy(np.concatenate(rows).reshape(-1, 4))}
        save_file(tensors, partial, {"index": json.dumps({"shards": shards, "broken": broken})})


class _Group:
    """Neighboring members of one name."""

    def __init__(self, key: str, start: int) -> None:
        self.key = key
        self.start = self.stop = start
        self.suffixes: set[str] = set()
        self.size: tuple[int, int] | None = None
        self.fault = ""

    def add(self, suffix: str, member: tarfile.TarInfo, tar: tarfile.TarFile, size: int) -> None:
        """Takes a member of a shard of `size` bytes."""
        self.stop = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if suffix in self.suffixes:
            self.fault = f"there are two members .{suffix}"
        self.suffixes.add(suffix)
        if member.offset_data + member.size > size:
            self.fault = "the shard is cut short in it"
        elif suffix in IMAGES and self.size is None:
            content = tar.extractfile(member)
            try:
                self.size = image_size(content, f".{suffix}") if content else None
            except UnreadableImageError as error:
                self.fault = str(error)

    def why_broken(self) -> str:
        """Empty where it is an example."""
        if self.fault:
            return self.fault
        if not self.suffixes & set(IMAGES):
            return "there is no picture with it"
        return "" if self.suffixes & set(TEXTS) else "there is no caption with it"


def _index_shard(url: str, name: str, size: int) -> _Part:
    """The whole examples of a shard of `size` bytes, and what else it holds."""
    rows: list[tuple[int, int, int, int]] = []
    broken: list[str] = []
    keys: set[str] = set()

    def finish(group: _Group | None) -> None:
        if group is None:
            return
        why = "its name came before" if group.key in keys else group.why_broken()
        keys.add(group.key)
        if why or group.size is None:
            broken.append(f"{name}: {group.key}: {why}")
        else:
            rows.append((group.start, group.stop, *group.size))

    try:
        with reached(url) as (files, place), files.open(place, "rb") as file:
            fault = _walk(file, size, finish)
        broken += [f"{name}: {fault}"] if fault else []
    except OSError as error:
        broken.append(f"{name}: {error}")
    if not rows and not broken:
        broken.append(f"{name}: the shard has no whole example")
    return _Part(Shard(name, size, len(rows)), np.array(rows, dtype=np.int64).reshape(-1, 4), broken)


def _walk(file: IO[bytes] | AbstractBufferedFile, size: int, finish: Callable[["_Group | None"], None]) -> str:
    """Gives all groups of members of a tar file; returns what is wrong with its end, or nothing."""
    group: _Group | None = None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = _MEMBER.fullmatch(member.name)
                tar.members = []  # type: ignore[attr-defined]  # which tarfile would keep all
                if name is None or not member.isfile():
                    continue
                if group is None or group.key != name[1]:
                    finish(group)
                    group = _Group(name[1], member.offset)
                group.add(name[2].lower(), member, tar, size)
            finish(group)
            group = None
            file.seek(tar.offset)
            block = file.read(tarfile.BLOCKSIZE)
    except tarfile.ReadError as error:
        finish(group)
        return str(error)
    if not block:
        return "the shard ends without its end mark"
    return f"the shard is damaged at byte {tar.offset}" if block.strip(b"\0") else ""
