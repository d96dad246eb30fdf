"""How certain a mean over prompts is: percentile bootstrap intervals, the same ones at every call."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 4000
_SEED = 20260203


class Estimate(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def estimate(groups: Sequence[ArrayLike]) -> Estimate | None:
    """The plain mean of the groups' means, with its interval; None if there is no group or one is empty.

    Prompts are drawn with replacement within each group, not images: what images of one prompt have in common is no
    evidence twice. Where there are several trained runs, these are drawn with replacement as well, the same ones for
    all groups. A single value gives an interval of no width, as do values that are all equal.

    Args:
        groups: for each, an array (prompts,) or (runs, prompts).
    """
    arrays = [np.atleast_2d(np.asarray(group, np.float64)) for group in groups]
    if not arrays or not all(array.size for array in arrays):
        return None
    random = np.random.default_rng(_SEED)
    runs = _times_drawn(random, len(arrays[0]))
    means = np.mean(
        [(runs @ array * _times_drawn(random, array.shape[1])).sum(axis=1) / array.size for array in arrays], axis=0
    )
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(np.mean([array.mean() for array in arrays])), float(low), float(high))


def _times_drawn(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """How often each of `count` things comes in each of `RESAMPLES` draws of as many with replacement."""
    drawn = random.integers(count, size=(RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count)
