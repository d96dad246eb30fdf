"""Images and captions from tar shards, on this machine or behind URLs."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ..io.files import JsonObject
from ..io.images import UnreadableImageError, read_image
from ..io.jsonl import work_key
from .pack import MANIFEST, PackManifest
from .parts import read_manifest_of
from .shards import IMAGES, Index, find_files, index_shards, read_example
from .sources import SOURCES, BrokenExampleError, Example, ImageFile, Source, SourceConfig, read_captions

TRIES = 3  # of a read that fails
PROBED = 16  # examples that are looked at for original captions


@SOURCES.register("webdataset")
class WebDatasetSource(SourceConfig):
    """Tar shards as WebDataset has them: of each example a picture, and its caption as text or in JSON."""

    source: Literal["webdataset"] = Field("webdataset", description="webdataset, tar shards")
    path: str | list[str] = Field(description="folder, glob, URL, or names with {0000..0099}; or several of these")
    text_key: str = Field(
        "text", description="key of the caption in .json; without such a key or member the caption is in .txt"
    )
    original_text_key: str = Field("original_text", description="key in .json of the caption that a newer one replaced")

    def open(self, image_size: int, seed: int) -> Source:
        """Reads or makes the index; shards are opened when asked for."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        for path in paths:
            _check_packed(Path(path))
        urls = find_files(paths, "tar")
        index = index_shards(urls)
        if not len(index.rows):
            reasons = [reason for broken in index.broken for reason in broken]
            raise ValueError(f"The {len(urls)} shards hold no whole example: {'; '.join(reasons[:3])}.")
        return _WebDataset(urls, index, self)


def _check_packed(folder: Path) -> None:
    """Refuses a folder in which `sroute pack` has not written all shards. Names of shards ask for no more than these.

    Raises:
        ValueError: shards are missing.
    """
    if not (folder / MANIFEST).is_file():
        return
    shards = read_manifest_of(PackManifest, folder / MANIFEST, "sroute pack").shards()
    written = sum((folder / shard).is_file() for shard in shards)
    if written < len(shards):
        raise ValueError(
            f"{folder} has {written} of {len(shards)} shards; run sroute pack again to go on, or name those to read."
        )


class _WebDataset(Source):
    def __init__(self, urls: Sequence[str], index: Index, config: WebDatasetSource) -> None:
        self.urls = urls
        self.index = index
        self.config = config
        self.ends = np.cumsum(self.shards)

    @property
    def length(self) -> int:
        return len(self.index.rows)

    @property
    def shards(self) -> list[int]:
        return [shard.examples for shard in self.index.shards]

    @property
    def left_out(self) -> list[str]:
        return [name for names in self.index.broken for name in names]

    @property
    def identity(self) -> str:
        return work_key(shards=self.index.shards)

    @property
    def has_originals(self) -> bool:
        """Whether one of the first examples keeps an original."""
        for index in range(min(self.length, PROBED)):
            try:
                if self._record(index, self._members(index)).get(self.config.original_text_key):
                    return True
            except BrokenExampleError:
                continue
        return False

    def picture_size(self, index: int) -> tuple[int, int]:
        _, _, width, height = self.index.rows[index]
        return int(width), int(height)

    def __getitem__(self, index: int) -> Example:
        members = self._members(index)
        file = self._picture(index, members)
        try:
            image = read_image(io.BytesIO(file.content), self._name(index))
        except UnreadableImageError as error:
            raise BrokenExampleError(str(error)) from error
        record = self._record(index, members)
        originals = record.get(self.config.original_text_key)
        return Example(
            image,
            read_captions(record.get(self.config.text_key), self._name(index)),
            read_captions(originals, self._name(index)) if originals else (),
        )

    def image_file(self, index: int) -> ImageFile:
        return self._picture(index, self._members(index))

    def _name(self, index: int) -> str:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        before = int(self.ends[shard - 1]) if shard else 0
        return f"{self.index.shards[shard].name}, example {index - before}"

    def _members(self, index: int) -> dict[str, bytes]:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        start, stop = (int(place) for place in self.index.rows[index, :2])
        for attempt in range(1, TRIES + 1):
            try:
                return read_example(self.urls[shard], start, stop)
            except (OSError, ValueError) as error:
                if attempt == TRIES or isinstance(error, ValueError):
                    raise BrokenExampleError(f"{self._name(index)}: {' '.join(str(error).split())}") from error
        raise AssertionError("the last attempt returns or raises")

    def _picture(self, index: int, members: dict[str, bytes]) -> ImageFile:
        for suffix in IMAGES:
            if suffix in members:
                return ImageFile(suffix, members[suffix])
        raise BrokenExampleError(f"{self._name(index)}: there is no picture with it")

    def _record(self, index: int, members: dict[str, bytes]) -> JsonObject:
        """What the members say in words."""
        try:
            record = json.loads(members["json"]) if "json" in members else {}
            texts = [members[suffix].decode().strip() for suffix in ("txt", "text", "caption") if suffix in members]
        except (ValueError, RecursionError) as error:
            raise BrokenExampleError(f"{self._name(index)}: {error}") from error
        if not isinstance(record, dict):
            raise BrokenExampleError(f"{self._name(index)}: its .json is no mapping")
        return {self.config.text_key: texts[0], **record} if texts else record
