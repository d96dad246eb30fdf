"""Latents ahead: walks a data set once, so that training need not run the autoencoder."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import BrokenExampleError, BrokenExamples, ExampleStream, LatentsSource, Source
from ..data.latents import MANIFEST, Manifest, Record, Shard, read_manifest, shard_path, write_shard
from ..io.files import write_text
from .build import build_codec, describe_vae, resolve_sizes
from .config import Config


class PrecomputeReport(NamedTuple):
    """Examples of the data set, and why some could not be read."""

    examples: int
    broken: list[str]


def precompute(config: Config, out: Path, batch_size: int, device: torch.device) -> PrecomputeReport:
    """Writes the captions and the posterior of every image's latent, for the data source `latents`.

    Shards that are there already stay: stopped, it goes on where it was, and ends with the files of a run in one go.

    Args:
        config: the run that shall train on them.
        out: folder to write, or to go on in.
        batch_size: images that the autoencoder encodes at once.
        device: where it does.

    Raises:
        ValueError: the config's latents cannot be computed ahead, `out` holds others, or too many images are broken.
    """
    source, manifest = _plan(config)
    codec = build_codec(config, device)
    _begin(out, manifest)
    rows = _Rows(ExampleStream(source, config.data.image_size, config.training.seed))
    broken = BrokenExamples(manifest.examples, config.data.max_broken)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("precomputing", total=manifest.examples)

        def count(records: list[Record]) -> None:
            broken.count(record for record in records if isinstance(record, str))
            progress.advance(task, len(records))

        def encode(pixels: Tensor) -> Tensor:
            # As the training step would have it.
            with torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bfloat16"):
                return codec.posteriors(pixels.to(device)).cpu().contiguous()  # it may come channels last

        for shard, numbers in enumerate(manifest.numbers()):
            path = shard_path(out, shard)
            if path.is_file():
                count(Shard(path).records)
                continue
            loader = DataLoader(rows, batch_size, sampler=numbers, num_workers=config.data.num_workers, collate_fn=list)
            write_shard(path, *_encode(loader, encode, count))
    broken.report()
    return PrecomputeReport(manifest.examples, sorted(broken.names))


def _plan(config: Config) -> tuple[Source, Manifest]:
    """The images, and what their latents will be, where training would take them."""
    data = config.data
    if isinstance(data.source, LatentsSource):
        raise ValueError(f"data.source is latents already, those in {data.source.path}.")
    vae = describe_vae(config)
    resolve_sizes(config)
    source = data.source.open(data.image_size, config.training.seed)
    if source.length is None:
        raise ValueError(f"data.source {data.source.source!r} is endless: its latents cannot be computed ahead.")
    manifest = Manifest(
        vae=vae,
        image_size=data.image_size,
        source=data.source.model_dump(mode="json"),
        examples=source.length,
        has_originals=source.has_originals,
    )
    return source, manifest


def _begin(out: Path, manifest: Manifest) -> None:
    """Writes the manifest, or sees that the one which is there is the same."""
    path = out / MANIFEST
    if path.is_file():
        begun = read_manifest(out)
        for key, value in manifest:
            if getattr(begun, key) != value:
                raise ValueError(f"{out} was begun with {key} {getattr(begun, key)!r}; the config says {value!r}.")
    elif any(out.glob("shard-*")):
        raise ValueError(f"{out} holds shards and no {MANIFEST} that says of what; name another folder.")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, manifest.model_dump_json(indent=1))


class _Row(NamedTuple):
    """An example: its number, its captions or why it is broken, and its pixels if it is not."""

    number: int
    record: Record
    pixels: Tensor | None


class _Rows(Dataset[_Row]):
    """The examples of a source in its own order."""

    def __init__(self, stream: ExampleStream) -> None:
        self.stream = stream

    def __getitem__(self, number: int) -> _Row:
        try:
            image, captions, originals = self.stream.source[number]
        except BrokenExampleError as error:
            return _Row(number, str(error), None)
        # The generator is for what the stream does not do here: to crop or mirror at random.
        pixels = self.stream.transform(image, np.random.default_rng(0))
        return _Row(number, {"captions": list(captions), "originals": list(originals)}, pixels)


def _encode(
    batches: Iterable[list[_Row]], encode: Callable[[Tensor], Tensor], count: Callable[[list[Record]], None]
) -> tuple[list[Record], dict[str, Tensor]]:
    """Records and posteriors of a shard; `count` is told of each batch's records."""
    records: list[Record] = []
    posteriors: dict[str, Tensor] = {}
    for rows in batches:
        whole = {str(row.number): row.pixels for row in rows if row.pixels is not None}
        if whole:
            encoded = encode(torch.stack(list(whole.values())))
            posteriors |= {number: row.clone() for number, row in zip(whole, encoded, strict=True)}
        count([row.record for row in rows])
        records += [row.record for row in rows]
    return records, posteriors
