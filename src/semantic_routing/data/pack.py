"""Any source as tar shards in the WebDataset format.

    pack.json               what was packed
    shard-00000.tar         00000000.jpg, 00000000.json, 00000001.jpg, …
    sroute-index.safetensors

Picture files are copied as they are; pictures that are drawn or decoded become PNG.
"""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset
from webdataset.writer import TarWriter

from ..io.files import whole_file
from .broken import BrokenExamples
from .parts import Count, Processes, ranges, working
from .shards import IMAGES, find_files, index_shards
from .sources import SOURCES, BrokenExampleError, ImageFile, Source, SourceConfig
from .workers import batches

MANIFEST = "pack.json"
BROKEN = "__broken__"  # of a row: why it is none

Members = dict[str, str | bytes]
"""The files of an example by suffix, and its key."""


class PackManifest(BaseModel):
    """What a folder of packed shards holds; two that are equal hold the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    source: dict[str, Any] = Field(description="the config's data source")
    image_size: PositiveInt = Field(description="pixels a side, of pictures that are drawn")
    seed: int = Field(description="of pictures that are drawn")
    examples: Count
    shard_size: PositiveInt = Field(description="examples a shard")

    def numbers(self) -> list[range]:
        """The examples of each shard."""
        return ranges(self.examples, self.shard_size)

    def shards(self) -> list[str]:
        """The names of all shards."""
        return [f"shard-{shard:05d}.tar" for shard in range(len(self.numbers()))]


class PackReport(NamedTuple):
    """Examples that this process has to pack, and why some could not be read."""

    examples: int
    broken: list[str]


def pack(
    config: SourceConfig,
    out: Path,
    image_size: int,
    seed: int = 0,
    examples: int | None = None,
    shard_size: int = 1000,
    max_broken: float = 0.01,
    num_workers: int = 0,
) -> PackReport:
    """Writes tar shards, for the data source `webdataset`.

    Shards that are there already stay: stopped, it goes on where it was, and ends with the files of a run in one go.
    Processes that a launcher started share the shards.

    Args:
        config: the source.
        out: folder to write, or to go on in.
        image_size: pixels a side, for a source that draws.
        seed: for a source that draws.
        examples: how many, the first ones; None packs all.
        shard_size: examples a shard.
        max_broken: share of broken examples past which it stops.
        num_workers: processes that read.

    Raises:
        ValueError: the source is endless and `examples` is None, `out` holds something else, or too much is broken.
        DataWorkerError: a process that reads data died.
    """
    source = config.open(image_size, seed)
    if source.length is None and examples is None:
        raise ValueError(f"The data source {config.source!r} is endless; say with --examples how many to pack.")
    count = min(filter(None, (source.length, examples)))
    manifest = PackManifest(
        source=config.model_dump(mode="json"), image_size=image_size, seed=seed, examples=count, shard_size=shard_size
    )
    processes = Processes.started()
    paths = [out / shard for shard in manifest.shards()]
    own = processes.own(manifest.numbers())
    broken = BrokenExamples(count, max_broken, source.left_out)
    with (
        working(out / MANIFEST, manifest, "sroute pack", processes),
        Progress(console=Console(stderr=True), disable=processes.rank > 0) as progress,
    ):
        task = progress.add_task("packing", total=sum(len(numbers) for _, numbers in own))
        for shard, numbers in own:
            if not paths[shard].is_file():
                _write(paths[shard], DataLoader(_Rows(source), None, sampler=numbers, num_workers=num_workers), broken)
            progress.advance(task, len(numbers))
        if all(path.is_file() for path in paths):
            index_shards(find_files([str(out)], "tar"), beside=True)
    broken.report()
    return PackReport(sum(len(numbers) for _, numbers in own), sorted(broken.names))


def source_of(name: str) -> SourceConfig | None:
    """The source that a data set's name means by itself; None where it must be a config's.

    Args:
        name: JSON or JSON lines, Parquet, a folder or names of tar shards.
    """
    suffixes = {".json": "json", ".jsonl": "json", ".tar": "webdataset", ".parquet": "parquet"}
    path = Path(name)
    kind = "webdataset" if path.is_dir() and any(path.glob("*.tar")) else suffixes.get(path.suffix)
    return None if kind is None else SOURCES.find(kind).model_validate({"source": kind, "path": name})


class _Rows(Dataset[Members]):
    """The members of each example's files, by suffix."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, number: int) -> Members:
        try:
            _, captions, originals = self.source[number]
            file = self.source.image_file(number)
        except BrokenExampleError as error:
            return {BROKEN: str(error)}
        record = {"text": list(captions)} | ({"original_text": list(originals)} if originals else {})
        return {
            "__key__": f"{number:08d}",
            _suffix(file): file.content,
            "json": json.dumps(record, ensure_ascii=False).encode(),
        }


def _suffix(file: ImageFile) -> str:
    """A suffix that says that it is a picture; where the source knows none, that of its format."""
    if file.suffix in IMAGES:
        return file.suffix
    with Image.open(io.BytesIO(file.content)) as image:
        kind = str(image.format).lower()
    return kind if kind in IMAGES else "png"


def _write(path: Path, rows: DataLoader[Members], broken: BrokenExamples) -> None:
    """Writes a shard whole or not at all; the same rows give the same bytes."""
    with whole_file(path) as partial, partial.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
        for row in batches(rows):
            if BROKEN in row:
                broken.count([str(row[BROKEN])])
            else:
                writer.write(row)
