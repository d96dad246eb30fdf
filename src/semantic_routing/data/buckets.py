"""Aspect-ratio buckets: pictures of several shapes, each cropped to the nearest of a few sizes of about one area."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from huggingface_hub import cached_assets_path
from jaxtyping import Int, Num
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from ..io.files import sha256, whole_file
from .sources import BrokenExampleError, Source
from .workers import batches

logger = logging.getLogger(__name__)

Size = tuple[int, int]
"""Width and height in pixels."""

MOST_OBLONG = 3.0  # ratio of sides past which pictures are cropped
STEPS = 16  # of the side of a square, where the config does not say how sides grow
SCAN_BATCH = 256


class Buckets(NamedTuple):
    """The bucket of each example, and what it costs.

    `examples` counts those of each size; `cropped` is the share of all pictures' area that lies outside of the crops.
    """

    sizes: list[Size]
    of_example: Int[np.ndarray, " examples"]
    examples: list[int]
    cropped: float

    def counts(self) -> str:
        """How many examples each size has."""
        pairs = zip(self.sizes, self.examples, strict=True)
        return ", ".join(f"{width}x{height}: {count}" for (width, height), count in pairs)

    def describe(self) -> str:
        """In one line."""
        return f"Buckets {self.counts()}; {self.cropped:.1%} of the pixels are cropped."


def auto_sizes(image_size: int, step: int) -> list[Size]:
    """Sizes of about the area of a square, from tall to wide, whose sides are multiples of `step`.

    Args:
        image_size: pixels a side of the square.
        step: pixels.
    """
    area = image_size**2
    sizes = set()
    for short in range(step, image_size + 1, step):
        long = max(round(area / short / step) * step, step)
        if long <= MOST_OBLONG * short:
            sizes |= {(short, long), (long, short)}
    return sorted(sizes, key=lambda size: size[0] / size[1])


def choose_sizes(wanted: str | Sequence[Size], image_size: int, step: int | None, unit: int) -> list[Size]:
    """The sizes that a config asks for.

    Args:
        wanted: "auto", or the sizes.
        image_size: pixels a side of the square that "auto" sizes have the area of.
        step: by which sides grow; None is 1/16 of the side.
        unit: pixels that sides must be multiples of.

    Raises:
        ValueError: a side or the step is not a multiple of `unit`.
    """
    if isinstance(wanted, str):
        step = step or max(round(image_size / STEPS / unit), 1) * unit
        if step % unit:
            raise ValueError(f"data.bucket_step {step} is not a multiple of {unit}, a patch's pixels.")
        return auto_sizes(image_size, step)
    for size in wanted:
        if any(side % unit for side in size):
            raise ValueError(f"data.buckets: {size[0]}x{size[1]} is not in multiples of {unit}, a patch's pixels.")
    return list(dict.fromkeys(wanted))


def nearest(pictures: Num[np.ndarray, "examples 2"], sizes: Sequence[Size]) -> Int[np.ndarray, " examples"]:
    """For each picture the number of the size whose shape is nearest."""
    ratios = np.log([width / height for width, height in sizes])
    width, height = np.maximum(pictures, 1).T
    shapes = np.log(width / height)
    # In parts: a table of all pictures and sizes would be large.
    parts = np.array_split(shapes, -(-len(shapes) // 2**16))
    return np.concatenate([np.abs(part[:, None] - ratios).argmin(axis=1) for part in parts])


def fill_buckets(source: Source, sizes: list[Size], num_workers: int = 0) -> Buckets:
    """Looks at the shape of every picture, which is remembered, and gives each its bucket.

    A picture that cannot be read gets the most frequent bucket, where it is skipped and counted like any other.

    Args:
        source: of the pictures.
        sizes: of the buckets.
        num_workers: processes that look.

    Raises:
        ValueError: the source is endless, or no picture can be read.
        DataWorkerError: a process that looks died.
    """
    if source.length is None:
        raise ValueError("data.buckets needs pictures of several shapes; this source is endless and has one.")
    pictures = _picture_sizes(source, num_workers)
    readable = pictures[:, 0] > 0
    if not readable.any():
        raise ValueError(f"None of the {len(pictures)} pictures can be read.")
    of_example = nearest(pictures, sizes)
    counts = np.bincount(of_example[readable], minlength=len(sizes))
    of_example[~readable] = counts.argmax()
    for (width, height), count in zip(sizes, counts, strict=True):
        if not count:
            logger.info("No picture fits the bucket %dx%d.", width, height)
    cropped = _cropped(pictures[readable], np.array(sizes)[of_example[readable]])
    return Buckets(sizes, of_example.astype(np.int16), counts.tolist(), cropped)


def _cropped(pictures: Int[np.ndarray, "examples 2"], sizes: Int[np.ndarray, "examples 2"]) -> float:
    """The share of the pictures' area that the crops leave out, each picture weighing the same."""
    ratio = (pictures[:, 0] / pictures[:, 1]) / (sizes[:, 0] / sizes[:, 1])
    return float(1 - np.minimum(ratio, 1 / ratio).mean())


class _Sizes(Dataset[Size]):
    """Width and height of each picture, 0 where it cannot be read."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Size:
        try:
            return self.source.picture_size(index)
        except BrokenExampleError:
            return 0, 0


def _picture_sizes(source: Source, num_workers: int) -> Int[np.ndarray, "examples 2"]:
    """The sizes of all pictures: as they were found earlier, or by a look at each."""
    identity, length = source.identity, source.length or 0
    if identity is None:
        return _scan(source, length, num_workers)
    path = cached_assets_path("semantic-routing", "data") / f"sizes-{sha256(identity)}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        found = _remembered(path, length)
        if found is None:
            found = _scan(source, length, num_workers)
            with whole_file(path) as partial:
                save_file({"sizes": found}, partial)
    return found


def _remembered(path: Path, length: int) -> Int[np.ndarray, "examples 2"] | None:
    """The sizes in a file; None where there is none that is whole."""
    try:
        found: Int[np.ndarray, "examples 2"] = load_file(path)["sizes"]
    except (OSError, SafetensorError, KeyError):
        return None
    return found if found.shape == (length, 2) else None


def _scan(source: Source, length: int, num_workers: int) -> Int[np.ndarray, "examples 2"]:
    loader = DataLoader(_Sizes(source), SCAN_BATCH, sampler=range(length), num_workers=num_workers, collate_fn=list)
    steps = -(-length // SCAN_BATCH)
    found = track(batches(loader), "looking at shapes", steps, console=Console(stderr=True), transient=True)
    return np.array([size for batch in found for size in batch], dtype=np.int32)
