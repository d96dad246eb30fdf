"""Latents computed ahead: the autoencoder's posterior of every image, and the captions, in safetensors shards.

    manifest.json              what they were made of, and how many there are
    shard-00000.safetensors    the first examples: a tensor each, named by its number; their captions in the metadata

An example keeps its number in the source it came from. One that could not be read has its reason in place of captions
and no tensor, so that training draws, skips and names the very examples that it would from the images.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..io.files import whole_file
from .sources import SOURCES, BrokenExampleError, Example, Source, SourceConfig

MANIFEST = "manifest.json"

# Of an example: its captions and originals, or why it could not be read.
Record = dict[str, Sequence[str]] | str


class Manifest(BaseModel):
    """What a folder of latents holds; two that are equal hold the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vae: dict[str, Any] = Field(description="digest of the weights, dtype, scaling and shift")
    image_size: PositiveInt = Field(description="pixels a side")
    source: dict[str, Any] = Field(description="the config's data source")
    examples: PositiveInt
    has_originals: bool
    shard_size: PositiveInt = Field(1024, description="examples a shard")

    def numbers(self) -> list[range]:
        """The examples of each shard."""
        starts = range(0, self.examples, self.shard_size)
        return [range(start, min(start + self.shard_size, self.examples)) for start in starts]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises OSError or ValueError where there is none."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a manifest that sroute precompute wrote.") from error


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard is or will be."""
    return folder / f"shard-{shard:05d}.safetensors"


def write_shard(path: Path, records: Sequence[Record], posteriors: Mapping[str, Tensor]) -> None:
    """Writes a shard whole or not at all.

    Args:
        path: of the shard.
        records: of all its examples.
        posteriors: of those that could be read, by their number in the data set.
    """
    with whole_file(path) as partial:
        save_file(dict(posteriors), partial, {"records": json.dumps(records)})


class Shard:
    """A shard, mapped into memory. Raises OSError or ValueError where it cannot be read."""

    file: Any

    def __init__(self, path: Path) -> None:
        try:
            self.file = safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}; remove it and run sroute precompute again.") from error
        self.records: list[Record] = json.loads(self.file.metadata()["records"])


@SOURCES.register("latents")
class LatentsSource(SourceConfig):
    """Latents that `sroute precompute` wrote, with their captions."""

    source: Literal["latents"] = Field("latents", description="latents, computed ahead")
    path: Path = Field(description="folder that sroute precompute wrote")

    def open(self, image_size: int, seed: int) -> Source:
        """Reads the manifest; shards are opened when asked for."""
        manifest = read_manifest(self.path)
        if manifest.image_size != image_size:
            raise ValueError(
                f"{self.path} holds latents of images of {manifest.image_size} pixels; data.image_size is {image_size}."
            )
        written = [shard_path(self.path, shard).is_file() for shard in range(len(manifest.numbers()))]
        if not all(written):
            raise ValueError(
                f"{self.path} has {sum(written)} of {len(written)} shards; run sroute precompute again to go on."
            )
        return _Latents(self.path, manifest)


class _Latents(Source):
    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards: dict[int, Shard] = {}  # opened in the process that reads them

    @property
    def length(self) -> int:
        return self.manifest.examples

    @property
    def has_originals(self) -> bool:
        return self.manifest.has_originals

    def __getitem__(self, index: int) -> Example:
        number, place = divmod(index, self.manifest.shard_size)
        path = shard_path(self.folder, number)
        try:
            if number not in self._shards:
                self._shards[number] = Shard(path)
            shard = self._shards[number]
            record = shard.records[place]
            if isinstance(record, str):
                raise BrokenExampleError(record)
            return Example(shard.file.get_tensor(str(index)), **record)
        except (OSError, ValueError, SafetensorError) as error:
            raise BrokenExampleError(f"example {index}: {error}") from error
