"""Latents and text features computed ahead, in safetensors shards: the autoencoder's posterior of every image, and the
language model's hidden states of every caption.

    manifest.json              what they were made of, and how many there are
    shard-00000.safetensors    the first examples; their captions are in the metadata

Tensor `17` is the posterior of example 17, `17.0` the features of its first caption; originals follow captions.
Tensor `empty` holds the features of the empty caption.

An example keeps its number in the source it came from. One that could not be read has its reason in place of captions
and no tensor, so that training draws, skips and names the very examples that it would from the images.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from ..io.files import whole_file
from ..io.jsonl import work_key
from .parts import Count, ranges, read_manifest_of
from .sources import SOURCES, BrokenExampleError, Example, Features, Source, SourceConfig

MANIFEST = "manifest.json"
EMPTY = "empty"
MOST_OPEN = 16  # shards that a process keeps mapped


class Captions(TypedDict):
    """Of an example: what it may be called, and what that replaced."""

    captions: Annotated[list[str], Field(min_length=1)]
    originals: list[str]


Record = Captions | str
"""Of an example: its captions, or why it could not be read."""

_RECORDS = TypeAdapter(list[Record], config=ConfigDict(extra="forbid"))


class Manifest(BaseModel):
    """What a folder of latents holds; two that are equal hold the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    vae: dict[str, Any] = Field(description="digest of the weights, dtype, scaling and shift")
    image_size: PositiveInt = Field(description="pixels a side")
    buckets: list[tuple[int, int]] | None = Field(None, description="widths and heights in pixels; None: all square")
    text: dict[str, Any] | None = Field(
        None, description="digest of the language model, and what is read of it; None: captions without features"
    )
    source: dict[str, Any] = Field(description="the config's data source")
    examples: Count
    has_originals: bool
    shard_size: PositiveInt = Field(1024, description="examples a shard")

    def numbers(self) -> list[range]:
        """The examples of each shard."""
        return ranges(self.examples, self.shard_size)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises OSError or ValueError where there is none."""
    return read_manifest_of(Manifest, folder / MANIFEST, "sroute precompute")


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard is or will be."""
    return folder / f"shard-{shard:05d}.safetensors"


def feature_name(number: int, place: int) -> str:
    """The tensor of an example's caption; originals are counted on from the captions."""
    return f"{number}.{place}"


def write_shard(path: Path, records: Sequence[Record], tensors: Mapping[str, Tensor]) -> None:
    """Writes a shard whole or not at all.

    Args:
        path: of the shard.
        records: of all its examples.
        tensors: posteriors and features of those that could be read, by name.
    """
    with whole_file(path) as partial:
        save_file(dict(tensors), partial, {"records": json.dumps(records)})


class Shard:
    """A shard, mapped into memory.

    Args:
        path: of the shard.
        examples: that it must have.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """

    file: Any

    def __init__(self, path: Path, examples: int) -> None:
        try:
            self.file = safe_open(path, "pt")
            self.records = _RECORDS.validate_json((self.file.metadata() or {}).get("records", ""))
            if len(self.records) != examples:
                raise ValueError(f"it has {len(self.records)} examples, not {examples}")
        except (SafetensorError, ValueError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise ValueError(f"{path} is damaged: {reason}; remove it and run sroute precompute again.") from error


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
        self._shards = [len(numbers) for numbers in manifest.numbers()]
        self._open: OrderedDict[int, Shard] = OrderedDict()  # in the process that reads them

    @property
    def length(self) -> int:
        return self.manifest.examples

    @property
    def shards(self) -> list[int]:
        return self._shards

    @property
    def identity(self) -> str:
        return work_key(**self.manifest.model_dump(mode="json"))

    @property
    def has_originals(self) -> bool:
        return self.manifest.has_originals

    @property
    def has_features(self) -> bool:
        return self.manifest.text is not None

    def __getitem__(self, index: int) -> Example:
        record = self._shard(index).records[index % self.manifest.shard_size]
        if isinstance(record, str):
            raise BrokenExampleError(record)
        return Example(self._tensor(index, str(index)), record["captions"], record["originals"])

    def features(self, index: int, caption: str) -> Features:
        """The features of a caption, in bfloat16."""
        if not caption:
            return self._tensor(index, EMPTY)
        _, captions, originals = self[index]
        return self._tensor(index, feature_name(index, [*captions, *originals].index(caption)))

    def picture_size(self, index: int) -> tuple[int, int]:
        """Of the latent, which has the shape of its bucket."""
        height, width = self[index].image.shape[-2:]  # type: ignore[union-attr]
        return width, height

    def _tensor(self, index: int, name: str) -> Tensor:
        try:
            tensor: Tensor = self._shard(index).file.get_tensor(name)
        except SafetensorError as error:
            raise BrokenExampleError(f"example {index}: {error}") from error
        return tensor

    def _shard(self, index: int) -> Shard:
        """The shard of an example; of those read before, the ones used longest ago are closed."""
        number = index // self.manifest.shard_size
        if number not in self._open:
            try:
                self._open[number] = Shard(shard_path(self.folder, number), self._shards[number])
            except (OSError, ValueError) as error:
                raise BrokenExampleError(f"example {index}: {error}") from error
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]
