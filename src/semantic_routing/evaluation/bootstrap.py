"""How certain a mean over prompts is: percentile bootstrap intervals, the same ones at every call."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 4000
_SEED = 20260203


class Estimate(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def estimate(groups: Sequence[Sequence[float]]) -> Estimate | None:
    """The plain mean of the groups' means, with its interval; None if there is no group or one is empty.

    Prompts are drawn with replacement within each group: what images of one prompt have in common is no evidence
    twice. A single value gives an interval of no width, as do values that are all equal.

    Args:
        groups: one value a prompt, in one or several groups.
    """
    if not groups or not all(len(group) for group in groups):
        return None
    random = np.random.default_rng(_SEED)
    arrays = [np.asarray(group, np.float64) for group in groups]
    means = np.mean([_resampled_means(array, random) for array in arrays], axis=0)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(np.mean([array.mean() for array in arrays])), float(low), float(high))


def _resampled_means(values: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """`RESAMPLES` means of as many values, drawn with replacement."""
    return values[random.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
