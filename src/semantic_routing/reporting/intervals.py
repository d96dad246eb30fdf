"""How certain a mean is: 95 % intervals of scores and of paired differences, and which differences are beyond noise.

Several trained runs: the prompts are fixed and the runs are the sample, so intervals are Student's t over one mean a
run, which is right for few runs. One run: the prompts are the sample, and the interval says nothing of other runs.
`benchmarks/coverage.py` measures how often these intervals hold the truth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
_SURE = 1e9
"""Degrees of freedom where no variance is estimated: Student's t is then the normal distribution."""


class Estimate(NamedTuple):
    """A mean, the ends of its 95 % interval, and for a difference its two-sided p-value against 0."""

    mean: float
    low: float
    high: float
    p_value: float = 1.0

    @property
    def largest(self) -> float:
        """The largest size of the difference that the interval holds."""
        return max(abs(self.low), abs(self.high))


class _Sample(NamedTuple):
    """A mean with the variance of that mean, its degrees of freedom, and the number of values behind it."""

    mean: float
    variance: float
    freedom: float
    number: float


def score(
    groups: Sequence[ArrayLike],
    bounds: tuple[float, float] | None = (0.0, 1.0),
    weights: Sequence[ArrayLike] = (),
) -> Estimate | None:
    """The plain mean of the groups' means, with its interval; None if there is no group or one is empty.

    The interval is Wilson's for a share, with the effective number of values in the place of their number (as Korn and
    Graubard, 1998, do for surveys) and Student's t in the place of the normal distribution. It stays within the bounds
    and has a width at the bounds, too: 0 of 80 gives [0, 0.046].

    Args:
        groups: for each, an array (prompts,) or (runs, prompts) of scores.
        bounds: the lowest and the highest score that there can be; None for scores without bounds, whose interval is
            Student's t.
        weights: for each group, one a prompt: a group's mean is weighted by them; none weighs all alike.
    """
    if bounds is None:
        return difference(groups, weights=weights)
    sample = _sample(groups, weights)
    if sample is None:
        return None
    lowest, width = bounds[0], bounds[1] - bounds[0]
    share = (sample.mean - lowest) / width
    spread = share * (1 - share)
    variance = sample.variance / width**2
    known = variance > 0 and spread > 0
    count = spread / variance if known else sample.number
    t = _quantile(sample.freedom if known else _SURE)
    center = (share + t**2 / (2 * count)) / (1 + t**2 / count)
    half = t / (1 + t**2 / count) * np.sqrt(spread / count + t**2 / (4 * count**2))
    # Rounding must not take the mean out of its interval.
    low, high = max(min(center - half, share), 0.0), min(max(center + half, share), 1.0)
    return Estimate(sample.mean, float(lowest + width * low), float(lowest + width * high))


def difference(groups: Sequence[ArrayLike], width: float = 1.0, weights: Sequence[ArrayLike] = ()) -> Estimate | None:
    """The plain mean of the groups' mean differences, with its t interval; None if there is no group or one is empty.

    Where all differences are equal, their variance is taken to be that of one pair that differs in each direction, as
    Bonett and Price (2012) add such pairs: no change among 80 prompts gives [-0.035, 0.035] and not [0, 0].

    Args:
        groups: for each, an array (prompts,) or (runs, prompts) of paired differences.
        width: of a single difference, the largest size that there can be.
        weights: as of `score`.
    """
    sample = _sample(groups, weights)
    if sample is None:
        return None
    variance, freedom = sample.variance, sample.freedom
    if variance == 0:
        sizes = np.abs(np.concatenate([np.ravel(group) for group in groups]))
        step = sizes[sizes > 0].min() if sizes.any() else width
        number = max(sample.number, 1.0)  # a single difference
        variance, freedom = 2 * (step / number) ** 2, max(number - 1, 1.0)
    error = variance**0.5
    half = _quantile(freedom) * error
    p_value = 2 * stdtr(freedom, -abs(sample.mean) / error) if error else 1.0
    return Estimate(sample.mean, sample.mean - half, sample.mean + half, float(p_value))


def _sample(groups: Sequence[ArrayLike], weights: Sequence[ArrayLike]) -> _Sample | None:
    arrays = [np.atleast_2d(np.asarray(group, np.float64)) for group in groups]
    if not arrays or not all(array.size for array in arrays):
        return None
    given = [np.asarray(each, np.float64) for each in weights] or [np.ones(array.shape[1]) for array in arrays]
    return _over_runs(arrays, given) if len(arrays[0]) > 1 else _over_prompts(arrays, given)


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted mean of each row."""
    # Divided last: the mean of equal values is then that value, and their variance 0.
    return (values * weights).sum(axis=1) / weights.sum()


def _effective(weights: NDArray[np.float64]) -> float:
    """As many values of equal weight as make a mean as certain."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _over_runs(arrays: Sequence[NDArray[np.float64]], weights: Sequence[NDArray[np.float64]]) -> _Sample:
    """One mean a run; the prompts are fixed."""
    means = np.mean([_mean(array, each) for array, each in zip(arrays, weights, strict=True)], axis=0)
    runs = len(means)
    count = runs * len(arrays) ** 2 / sum(1 / _effective(each) for each in weights)
    return _Sample(float(means.mean()), float(means.var(ddof=1)) / runs, float(runs - 1), count)


def _over_prompts(arrays: Sequence[NDArray[np.float64]], weights: Sequence[NDArray[np.float64]]) -> _Sample:
    """A sample of prompts from each group, with Satterthwaite's degrees of freedom."""
    counts = np.array([array.size for array in arrays])
    means = np.array([float(_mean(array, each)[0]) for array, each in zip(arrays, weights, strict=True)])
    # Nothing is known of the variance within a group of one: the variance of all values stands in for it.
    everything = np.concatenate([array.ravel() for array in arrays])
    overall = everything.var(ddof=1) if everything.size > 1 else 0.0
    variances = np.array(
        [
            size / (size - 1) * ((each * (array[0] - mean)) ** 2).sum() / each.sum() ** 2 if size > 1 else overall
            for array, each, mean, size in zip(arrays, weights, means, counts, strict=True)
        ]
    )
    parts = variances / len(arrays) ** 2
    total = float(parts.sum())
    freedom = total**2 / float((parts**2 / np.maximum(counts - 1, 1)).sum()) if total > 0 else float(counts.sum() - 1)
    number = len(arrays) ** 2 / sum(1 / _effective(each) for each in weights)
    return _Sample(float(means.mean()), total, max(freedom, 1.0), number)


def _quantile(freedom: float) -> float:
    """Of Student's t, for a two-sided 95 % interval."""
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, 1979): with them, a family has one false alarm in twenty at most."""
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = running
    return corrected.tolist()


def beyond_noise(p_value: float) -> bool:
    """Whether a (corrected) p-value tells a difference from noise."""
    return p_value < 1 - CONFIDENCE


def verdict(estimate: Estimate, p_value: float, largest: str, less_is_better: bool = False) -> str:
    """Better, worse, or no difference larger than the interval allows.

    Args:
        estimate: of the difference.
        p_value: corrected for the number of comparisons.
        largest: `estimate.largest` in the reader's unit.
        less_is_better: for losses.
    """
    if not beyond_noise(p_value):
        return f"no difference larger than {largest}"
    return "better" if (estimate.mean > 0) != less_is_better else "worse"
