"""Images and captions from Parquet files, of this machine, of the hub (`hf://datasets/…`) or behind other URLs.

Only footers are read when a data set is opened, and row groups when they are asked for: nothing is copied or converted.
"""

import io
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from ..io.files import JsonObject
from ..io.images import UnreadableImageError, image_size, read_image
from ..io.jsonl import work_key
from ..io.messages import brief
from .shards import find_files, reached
from .sources import SOURCES, BrokenExampleError, Example, ImageFile, Source, SourceConfig, read_captions


@SOURCES.register("parquet")
class ParquetSource(SourceConfig):
    """Parquet files with a column of encoded pictures, as Hugging Face data sets have them, and one of captions."""

    source: Literal["parquet"] = Field("parquet", description="parquet, files of this machine or of the hub")
    path: str | list[str] = Field(
        description="folder, glob, URL, hf://datasets/OWNER/NAME/data/*.parquet, or several of these"
    )
    image_key: str = Field("image", description="column of pictures, as bytes or as a struct with bytes")
    text_key: str = Field("text", description="column of captions, of texts or of lists of texts to draw from")
    original_text_key: str = Field("original_text", description="column of captions that newer ones replaced")
    row_groups: PositiveInt = Field(
        16, description="row groups that a process keeps in memory; data.shuffle_window should span no more of them"
    )

    def open(self, image_size: int, seed: int) -> Source:
        """Reads the footers."""
        groups: list[_Group] = []
        has_originals = False
        for url in find_files([self.path] if isinstance(self.path, str) else self.path, "parquet"):
            with reached(url) as (files, place), files.open(place, "rb") as file:
                opened = pq.ParquetFile(file)
                columns = opened.schema_arrow.names
                rows = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
            for key in (self.image_key, self.text_key):
                if key not in columns:
                    raise ValueError(f"{url} has no column {key!r}: it has {brief(columns)}.")
            has_originals |= self.original_text_key in columns
            groups += [_Group(url, number, count) for number, count in enumerate(rows) if count]
        if not groups:
            raise ValueError(f"The data set {self.path} is empty.")
        return _Parquet(groups, has_originals, self)


class _Group(NamedTuple):
    url: str
    number: int
    rows: int


class _Parquet(Source):
    def __init__(self, groups: Sequence[_Group], has_originals: bool, config: ParquetSource) -> None:
        self.groups = groups
        self.config = config
        self.ends = np.cumsum(self.shards)
        self._has_originals = has_originals
        self._open: OrderedDict[int, pa.Table] = OrderedDict()  # in the process that reads them

    @property
    def length(self) -> int:
        return int(self.ends[-1])

    @property
    def shards(self) -> list[int]:
        return [group.rows for group in self.groups]

    @property
    def identity(self) -> str:
        return work_key(groups=self.groups, image_key=self.config.image_key)

    @property
    def has_originals(self) -> bool:
        return self._has_originals

    def picture_size(self, index: int) -> tuple[int, int]:
        try:
            return image_size(io.BytesIO(self.image_file(index).content), self._name(index))
        except UnreadableImageError as error:
            raise BrokenExampleError(str(error)) from error

    def image_file(self, index: int) -> ImageFile:
        image = self._row(index)[self.config.image_key]
        content, name = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        if not isinstance(content, bytes):
            raise BrokenExampleError(f"{self._name(index)}: there is no picture in it")
        return ImageFile(str(name or "").rpartition(".")[2].lower(), content)

    def __getitem__(self, index: int) -> Example:
        try:
            image = read_image(io.BytesIO(self.image_file(index).content), self._name(index))
        except UnreadableImageError as error:
            raise BrokenExampleError(str(error)) from error
        row = self._row(index)
        originals = row.get(self.config.original_text_key)
        captions = read_captions(row[self.config.text_key], self._name(index))
        return Example(image, captions, read_captions(originals, self._name(index)) if originals else ())

    def _place(self, index: int) -> tuple[int, int]:
        """The number of an example's row group among all, and of its row in there."""
        group = int(np.searchsorted(self.ends, index, side="right"))
        return group, index - (int(self.ends[group - 1]) if group else 0)

    def _name(self, index: int) -> str:
        group, row = self._place(index)
        return f"{self.groups[group].url}, row group {self.groups[group].number}, row {row}"

    def _row(self, index: int) -> JsonObject:
        group, place = self._place(index)
        if group not in self._open:
            try:
                self._open[group] = self._read(self.groups[group])
            except OSError as error:
                raise BrokenExampleError(f"{self._name(index)}: {error}") from error
            if len(self._open) > self.config.row_groups:
                self._open.popitem(last=False)
        self._open.move_to_end(group)
        try:
            row: JsonObject = self._open[group].slice(place, 1).to_pylist()[0]
        except (ValueError, pa.ArrowException) as error:  # texts that are none
            raise BrokenExampleError(f"{self._name(index)}: {error}") from error
        return row

    def _read(self, group: _Group) -> pa.Table:
        wanted = (self.config.image_key, self.config.text_key, self.config.original_text_key)
        with reached(group.url) as (files, place), files.open(place, "rb") as file:
            opened = pq.ParquetFile(file)
            columns = [name for name in opened.schema_arrow.names if name in wanted]
            return opened.read_row_group(group.number, columns=columns)
