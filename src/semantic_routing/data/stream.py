"""The training stream: example number n is a pure function of (seed, n).

Nothing else is needed to resume at any step, to spread a batch over processes, or to repeat a run: there is no state.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from .buckets import Buckets, Size
from .order import DRAW, NOISE, BucketOrder, Order, random_generator, whole
from .sources import BrokenExampleError, Features, Source

WINDOW = 16384  # examples that are permuted together

# Broken examples in a row after which the source itself must be wrong.
MAX_ATTEMPTS = 100


class Batch(NamedTuple):
    """A batch of training examples; `images` are posteriors of latents where these were computed ahead.

    `noise_seeds` seed each example's noise and timestep; `skipped` names broken examples that others stood in for;
    `features` are those of the captions where they were computed ahead.
    """

    images: Float[Tensor, "batch channels height width"]
    captions: list[str]
    noise_seeds: Int[Tensor, " batch"]
    skipped: list[str]
    features: list[Features] | None = None


class ExampleStream(Dataset[Batch]):
    """Draws, transforms and captions examples by their number in the stream.

    Args:
        source: where they come from.
        image_size: pixels a side; images are resized by their short side and cropped.
        seed: of order, crops, captions and noise.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
        random_crop: crop anywhere and not at the center.
        horizontal_flip: mirror half of the images; captions that speak of left and right become wrong.
        original_caption_rate: share of examples that train on the caption which a newer one replaced.
        buckets: of the examples, where pictures are cropped to several sizes; None crops all to the square.
        batch_size: examples that are of one bucket.
        window: examples that are permuted together where a source lies in shards, see `Order`.

    Raises:
        ValueError: original captions are wanted and the source has none.
    """

    def __init__(
        self,
        source: Source,
        image_size: int,
        seed: int,
        caption_dropout: float = 0.0,
        random_crop: bool = False,
        horizontal_flip: bool = False,
        original_caption_rate: float = 0.0,
        buckets: Buckets | None = None,
        batch_size: int = 1,
        window: int = WINDOW,
    ) -> None:
        if original_caption_rate and not source.has_originals:
            raise ValueError(
                f"data.original_caption_rate is {original_caption_rate}, but the data keeps no original captions."
            )
        self.source = source
        self.sizes = [(image_size, image_size)] if buckets is None else buckets.sizes
        self.seed = seed
        self.caption_dropout = caption_dropout
        self.random_crop = random_crop
        self.horizontal_flip = horizontal_flip
        self.original_caption_rate = original_caption_rate
        self.order: Order | BucketOrder | None = None
        if source.length is not None:
            shards = whole(source.length, source.shards)
            # Without shards there is no neighborhood to keep.
            window = source.length if source.shards is None else window
            if buckets is None:
                self.order = Order(shards, seed, window)
            else:
                self.order = BucketOrder(buckets.of_example, shards, seed, window, batch_size)

    def __getitem__(self, number: int) -> Batch:
        """A batch of the single example `number`."""
        random = random_generator(self.seed, number, DRAW)
        index, bucket = self._place(number)
        skipped: list[str] = []
        while len(skipped) < MAX_ATTEMPTS:
            try:
                return self._example(number, index, self.sizes[bucket], random, skipped)
            except BrokenExampleError as error:
                skipped.append(str(error))
                index = self._another(bucket, random)
        raise ValueError(f"{MAX_ATTEMPTS} examples in a row are broken, the last one: {skipped[-1]}.")

    def _example(self, number: int, index: int, size: Size, random: np.random.Generator, skipped: list[str]) -> Batch:
        """The example at `index` of the source in the place of example `number`."""
        image, captions, originals = self.source[index]
        pixels = self.transform(image, random, size)
        # Drawn only where it can matter: without this option, runs stay what they were.
        if originals and self.original_caption_rate and random.random() < self.original_caption_rate:
            captions = originals
        caption = captions[int(random.integers(len(captions)))]
        if random.random() < self.caption_dropout:
            caption = ""
        features = [self.source.features(index, caption)] if self.source.has_features else None
        noise_seed = random_generator(self.seed, number, NOISE).integers(2**63 - 1, size=1)
        return Batch(pixels[None], [caption], torch.from_numpy(noise_seed), skipped, features)

    def _place(self, number: int) -> tuple[int, int]:
        """The source's index of example `number`, and its bucket."""
        if isinstance(self.order, BucketOrder):
            return self.order[number]
        return (number if self.order is None else self.order[number]), 0

    def _another(self, bucket: int, random: np.random.Generator) -> int:
        """The index of an example that stands in for a broken one."""
        if isinstance(self.order, BucketOrder):
            return self.order.draw(bucket, random)
        return int(random.integers(self.source.length or 2**63 - 1))

    def transform(
        self, image: Image.Image | Tensor, random: np.random.Generator, size: Size | None = None
    ) -> Float[Tensor, "channels height width"]:
        """Crops to the shape of `size`, scales, perhaps mirrors; a posterior stays what it is.

        Args:
            image: the picture, or the posterior of its latent.
            random: decides about crop and mirroring.
            size: width and height in pixels; None is that of the first bucket.

        Returns:
            Pixels in [-1, 1].
        """
        if isinstance(image, Tensor):
            return image
        size = size or self.sizes[0]
        if image.size != size:
            scale = max(wanted / seen for wanted, seen in zip(size, image.size, strict=True))
            # What is left over, in pixels of the result and on both sides together.
            spare = [max(round(seen * scale), wanted) - wanted for wanted, seen in zip(size, image.size, strict=True)]
            left, top = (pixels // 2 for pixels in spare)
            if self.random_crop:
                left, top = (int(random.integers(pixels + 1)) for pixels in spare)
            image = _resize(image, size, (left, top), (size[0] + spare[0], size[1] + spare[1]))
        if self.horizontal_flip and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
        return pixels / 127.5 - 1


def _resize(image: Image.Image, size: Size, corner: tuple[int, int], whole_size: Size) -> Image.Image:
    """The part of `size` at `corner` that the image would have at `whole_size`; the rest is never computed."""
    (x, y), (right, bottom) = (
        [place * seen / scaled for place, seen, scaled in zip(places, image.size, whole_size, strict=True)]
        for places in (corner, (corner[0] + size[0], corner[1] + size[1]))
    )
    box = (x, y, min(right, image.width), min(bottom, image.height))  # rounded, it might lie a hair outside
    return image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


class NumberSampler(Sampler[int]):
    """Example numbers of one process from a step on: of each global batch its own contiguous part, endlessly."""

    def __init__(self, first_step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.first_step = first_step
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[int]:
        step = self.first_step
        while True:
            start = (step * self.world_size + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)
            step += 1


def collate(examples: list[Batch]) -> Batch:
    """Joins batches of one example."""
    return Batch(
        images=torch.cat([example.images for example in examples]),
        captions=[caption for example in examples for caption in example.captions],
        noise_seeds=torch.cat([example.noise_seeds for example in examples]),
        skipped=[name for example in examples for name in example.skipped],
        features=None
        if examples[0].features is None
        else [features for example in examples for features in example.features or ()],
    )
