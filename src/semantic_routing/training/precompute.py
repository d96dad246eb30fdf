"""Latents and text features ahead: walks a data set once, so that training runs neither VAE nor language model."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import BrokenExampleError, BrokenExamples, ExampleStream, LatentsSource, Source
from ..data.buckets import Buckets, Size, fill_buckets
from ..data.latents import EMPTY, MANIFEST, Manifest, Record, Shard, feature_name, shard_path, write_shard
from ..data.parts import Processes, working
from ..data.workers import batches
from ..models.latents import LatentCodec
from ..text import TextEncoder
from .build import bucket_sizes, build_codec, build_prompt_encoder, describe_text, describe_vae, resolve_sizes
from .config import Config

logger = logging.getLogger(__name__)


class PrecomputeReport(NamedTuple):
    """Examples that this process had to do, and why some could not be read."""

    examples: int
    broken: list[str]


def precompute(
    config: Config, out: Path, batch_size: int, device: torch.device, text: bool = False
) -> PrecomputeReport:
    """Writes the captions and the posterior of every image's latent, for the data source `latents`.

    Shards that are there already stay: stopped, it goes on where it was, and ends with the files of a run in one go.
    Processes that a launcher started share the shards.

    Args:
        config: the run that shall train on them.
        out: folder to write, or to go on in.
        batch_size: images that the autoencoder encodes at once.
        device: where it does.
        text: write the features of all captions as well, of their real tokens, in bfloat16.

    Raises:
        ValueError: the config's latents cannot be computed ahead, `out` holds others, or too many images are broken.
        DataWorkerError: a process that reads data died.
    """
    source, manifest = _plan(config, text)
    processes = Processes.started()
    codec = build_codec(config, device)
    encoder = build_prompt_encoder(config, resolve_sizes(config), device) if text else None
    buckets = None if manifest.buckets is None else fill_buckets(source, manifest.buckets, config.data.num_workers)
    if buckets is not None and processes.rank == 0:
        logger.info(buckets.describe())
    rows = _Rows(ExampleStream(source, config.data.image_size, config.training.seed), buckets)
    broken = BrokenExamples(manifest.examples, config.data.max_broken, source.left_out)
    half = config.training.precision == "bfloat16"
    own = processes.own(manifest.numbers())
    with (
        working(out / MANIFEST, manifest, "sroute precompute", processes),
        Progress(console=Console(stderr=True), disable=processes.rank > 0) as progress,
    ):
        task = progress.add_task("precomputing", total=sum(len(numbers) for _, numbers in own))
        for shard, numbers in own:
            path = shard_path(out, shard)
            if path.is_file():
                found = Shard(path, len(numbers)).records
                broken.count(record for record in found if isinstance(record, str))
                progress.advance(task, len(found))
                continue
            records: list[Record] = []
            tensors: dict[str, Tensor] = {}
            loader = DataLoader(rows, batch_size, sampler=numbers, num_workers=config.data.num_workers, collate_fn=list)
            for batch in batches(loader):
                broken.count(row.record for row in batch if isinstance(row.record, str))
                # As the training step would have it.
                with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
                    tensors |= dict(_posteriors(batch, codec, device))
                    tensors |= dict(_features(batch, encoder)) if encoder else {}
                records += [row.record for row in batch]
                progress.advance(task, len(batch))
            write_shard(path, records, tensors)
    broken.report()
    return PrecomputeReport(sum(len(numbers) for _, numbers in own), sorted(broken.names))


def _plan(config: Config, text: bool) -> tuple[Source, Manifest]:
    """The images, and what their latents will be, where training would take them."""
    data = config.data
    if isinstance(data.source, LatentsSource):
        raise ValueError(f"data.source is latents already, those in {data.source.path}.")
    vae = describe_vae(config)
    sizes = resolve_sizes(config)
    source = data.source.open(data.image_size, config.training.seed)
    if source.length is None:
        raise ValueError(f"data.source {data.source.source!r} is endless: its latents cannot be computed ahead.")
    manifest = Manifest(
        vae=vae,
        image_size=data.image_size,
        buckets=bucket_sizes(config, sizes),
        text=describe_text(config) if text else None,
        source=data.source.model_dump(mode="json"),
        examples=source.length,
        has_originals=source.has_originals,
    )
    return source, manifest


class _Row(NamedTuple):
    """An example: its number, its captions or why it is broken, and its pixels if it is not."""

    number: int
    record: Record
    pixels: Tensor | None


class _Rows(Dataset[_Row]):
    """The examples of a source in its own order, cropped to their buckets."""

    def __init__(self, stream: ExampleStream, buckets: Buckets | None) -> None:
        self.stream = stream
        self.buckets = buckets

    def __getitem__(self, number: int) -> _Row:
        try:
            image, captions, originals = self.stream.source[number]
        except BrokenExampleError as error:
            return _Row(number, str(error), None)
        size: Size | None = None if self.buckets is None else self.buckets.sizes[self.buckets.of_example[number]]
        # The generator is for what the stream does not do here: to crop or mirror at random.
        pixels = self.stream.transform(image, np.random.default_rng(0), size)
        return _Row(number, {"captions": list(captions), "originals": list(originals)}, pixels)


def _posteriors(rows: list[_Row], codec: LatentCodec, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """The posterior of each image that could be read; those of one size are encoded together."""
    shapes: dict[torch.Size, list[_Row]] = {}
    for row in rows:
        if row.pixels is not None:
            shapes.setdefault(row.pixels.shape, []).append(row)
    for group in shapes.values():
        pixels = torch.stack([row.pixels for row in group if row.pixels is not None])
        for row, posterior in zip(group, codec.posteriors(pixels.to(device)).cpu(), strict=True):
            yield str(row.number), posterior.clone(memory_format=torch.contiguous_format)  # it may come channels last


def _features(rows: list[_Row], encoder: TextEncoder) -> Iterator[tuple[str, Tensor]]:
    """The features of all captions and of the empty one."""
    names, captions = [EMPTY], [""]
    for row in rows:
        if not isinstance(row.record, str):
            texts = [*row.record["captions"], *row.record["originals"]]
            names += [feature_name(row.number, place) for place in range(len(texts))]
            captions += texts
    for name, states in zip(names, encoder(captions).each(), strict=True):
        yield name, states.to("cpu", torch.bfloat16).contiguous()
