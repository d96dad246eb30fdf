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

from .sources import BrokenExampleError, Source

# Independent uses of one (seed, n) are kept apart by a purpose.
_ORDER, _DRAW, _NOISE = range(3)

# Broken examples in a row after which the source itself must be wrong.
MAX_ATTEMPTS = 100


class Batch(NamedTuple):
    """A batch of training examples; `images` are posteriors of latents where these were computed ahead.

    `noise_seeds` seed each example's noise and timestep; `skipped` names broken examples that others stood in for.
    """

    images: Float[Tensor, "batch channels height width"]
    captions: list[str]
    noise_seeds: Int[Tensor, " batch"]
    skipped: list[str]


def random_generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    """A generator for one purpose of example `number`."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, number]))


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
    ) -> None:
        if original_caption_rate and not source.has_originals:
            raise ValueError(
                f"data.original_caption_rate is {original_caption_rate}, but the data keeps no original captions."
            )
        self.source = source
        self.image_size = image_size
        self.seed = seed
        self.caption_dropout = caption_dropout
        self.random_crop = random_crop
        self.horizontal_flip = horizontal_flip
        self.original_caption_rate = original_caption_rate
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, number: int) -> Batch:
        """A batch of the single example `number`."""
        random = random_generator(self.seed, number, _DRAW)
        index = self._index(number)
        skipped = []
        for _ in range(MAX_ATTEMPTS):
            try:
                image, captions, originals = self.source[index]
                break
            except BrokenExampleError as error:
                skipped.append(str(error))
                index = int(random.integers(self.source.length or 2**63 - 1))
        else:
            raise ValueError(f"{MAX_ATTEMPTS} examples in a row are broken, the last one: {skipped[-1]}.")
        pixels = self.transform(image, random)
        # Drawn only where it can matter: without this option, runs stay what they were.
        if originals and self.original_caption_rate and random.random() < self.original_caption_rate:
            captions = originals
        caption = captions[int(random.integers(len(captions)))]
        if random.random() < self.caption_dropout:
            caption = ""
        noise_seed = random_generator(self.seed, number, _NOISE).integers(2**63 - 1, size=1)
        return Batch(pixels[None], [caption], torch.from_numpy(noise_seed), skipped)

    def _index(self, number: int) -> int:
        """The source's index of example `number`: each epoch is a permutation of its own."""
        length = self.source.length
        if length is None:
            return number
        epoch, position = divmod(number, length)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, random_generator(self.seed, epoch, _ORDER).permutation(length))
        return int(self._order[1][position])

    def transform(
        self, image: Image.Image | Tensor, random: np.random.Generator
    ) -> Float[Tensor, "channels height width"]:
        """Resizes the short side, crops, perhaps mirrors, and scales to [-1, 1]; a posterior stays what it is."""
        if isinstance(image, Tensor):
            return image
        size = self.image_size
        if image.size != (size, size):
            scale = size / min(image.size)
            width, height = (max(round(side * scale), size) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
            left, top = (width - size) // 2, (height - size) // 2
            if self.random_crop:
                left, top = int(random.integers(width - size + 1)), int(random.integers(height - size + 1))
            image = image.crop((left, top, left + size, top + size))
        if self.horizontal_flip and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
        return pixels / 127.5 - 1


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
    )
