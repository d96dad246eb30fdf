"""What feeding costs: CPU seconds of one process for latents from local shards, resuming in the middle, and memory.

Latents of SD3's shape at 256 × 256 pixels (32 numbers a pixel, bfloat16) go through the training stream and its joining
of batches. Then tiny tar shards are read for two epochs, and what the process holds before and after is compared.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from semantic_routing.data import ExampleStream, LatentsSource, WebDatasetSource, collate
from semantic_routing.data.latents import MANIFEST, Manifest, shard_path, write_shard
from semantic_routing.data.pack import pack
from semantic_routing.data.sources import ScenesSource

from . import common

SHAPE = (32, 32, 32)
BATCH = 64


def write_latents(folder: Path, examples: int) -> None:
    """A folder as `sroute precompute` leaves it."""
    manifest = Manifest(vae={}, image_size=256, source={}, examples=examples, has_originals=False)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    for number, numbers in enumerate(manifest.numbers()):
        tensors = {str(index): torch.randn(SHAPE, dtype=torch.bfloat16) for index in numbers}
        write_shard(shard_path(folder, number), [{"captions": ["a"], "originals": []}] * len(numbers), tensors)


def latents_a_second(folder: Path, seen: int, window: int) -> float:
    """Of CPU time of this process, after a batch that is not counted."""
    stream = ExampleStream(LatentsSource(path=folder).open(256, 0), 256, 0, 0.1, window=window)
    collate([stream[number] for number in range(BATCH)])
    started = time.process_time()
    for first in range(BATCH, BATCH + seen, BATCH):
        collate([stream[number] for number in range(first, first + BATCH)])
    return seen / (time.process_time() - started)


def resident() -> int:
    """Bytes that this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_growth(folder: Path, shards: int) -> tuple[float, float, float]:
    """MiB that reading two epochs of tiny shards added, after a tenth of one; and seconds to index and to resume."""
    pack(ScenesSource(), folder, 32, examples=shards, shard_size=1)  # makes the index as well
    started = time.process_time()
    source = WebDatasetSource(path=str(folder)).open(32, 0)
    opened = time.process_time() - started
    stream = ExampleStream(source, 32, 0, window=256)
    for number in range(shards // 10):
        stream[number]
    before = resident()
    for number in range(shards // 10, 2 * shards):
        stream[number]
    grown = (resident() - before) / 2**20
    started = time.process_time()
    ExampleStream(source, 32, 0, window=256)[10**9 + 7]
    return grown, opened, time.process_time() - started


def main(
    latents: Annotated[int, typer.Option(min=2 * BATCH, help="Written and read.")] = 4096,
    shards: Annotated[int, typer.Option(min=10, help="Tar shards of one example.")] = 10_000,
    window: Annotated[int, typer.Option(min=1, help="data.shuffle_window of the latents.")] = 1024,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    with tempfile.TemporaryDirectory() as folder:
        write_latents(Path(folder), latents)
        speed = latents_a_second(Path(folder), latents - BATCH, window)
    with tempfile.TemporaryDirectory() as folder:
        grown, opened, resumed = memory_growth(Path(folder) / "shards", shards)
    found = {
        "latents a CPU second": round(speed),
        f"MiB more after two epochs of {shards} shards": round(grown, 2),
        "CPU seconds to open them with their index": round(opened, 3),
        "CPU seconds to the first example in the middle": round(resumed, 4),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "data.json").write_text(json.dumps(found, indent=1))
    for name, value in found.items():
        print(f"{value:>12} {name}")


if __name__ == "__main__":
    common.run(main)
