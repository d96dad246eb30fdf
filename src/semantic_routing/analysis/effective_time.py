"""What a sampling trajectory says of its own time, beside the sampler's (paper, section 5.2 and fig. 4).

The forward process to a final latent z is y_t = (1 − t) ε + t z with unit Gaussian ε. A trajectory x_t is *ahead* where
it looks like y at a later time than t. Two measures say what it looks like:

paired    its distance to its own end z, as in the paper: rms(x_t − z) = (1 − t_eff) rms(ε − z);
marginal  the energy of its fine detail, which noise has and pictures have little of, without regard to its end.

A deterministic path stays close to its own end, so the paired time is above t even where every marginal is exact. For a
Gaussian of standard deviation s it is 1 − |√((1−t)² + t²s²) − s| / √(1 + s²).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .samples import Latents, States

PerImage = Float[np.ndarray, "times images"]


class Estimate(NamedTuple):
    """Effective time at each point of a trajectory, and its standard error over images (NaN for a single image)."""

    time: NDArray[np.float64]
    error: NDArray[np.float64]


def sampling_error(states: States) -> PerImage:
    """Mean squared distance of x_t to the final latent z (paper, fig. 4)."""
    end = states[-1]
    return torch.stack([(state - end).square().flatten(1).mean(1) for state in states]).double().numpy()


def forward_error(end: Latents, flow_times: NDArray[np.float64]) -> PerImage:
    """The same of y_t, in the expectation over fresh noise: (1 − t)² (1 + mean z²) (paper, fig. 4)."""
    span = (1 + end.square().flatten(1).mean(1)).double().numpy()
    return (1 - flow_times[:, None]) ** 2 * span


def psnr(error: PerImage, end: Latents) -> PerImage:
    """Peak signal-to-noise ratio in decibels; the peak is the range of values of each final latent."""
    flat = end.flatten(1)
    peak = (flat.max(1).values - flat.min(1).values).double().numpy()
    # An exact match has no finite ratio: NaN leaves it out of the figure.
    return 10 * np.log10(peak**2 / np.where(error > 0, error, np.nan))


def fine_energy(latents: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch"]:
    """Mean square of the diagonal detail (a − b − c + d) / 2 of 2 x 2 pixels; that of unit white noise is 1."""
    detail = latents[..., 1:, 1:] - latents[..., 1:, :-1] - latents[..., :-1, 1:] + latents[..., :-1, :-1]
    return (detail / 2).square().mean((-3, -2, -1))


def paired_time(states: States) -> Estimate:
    """The t at which y_t is as far from the end as x_t is: 1 − rms(x_t − z) / rms(ε − z)."""
    span = forward_error(states[-1], np.zeros(1))[0]
    return _with_error(lambda d, s: 1 - np.sqrt(d / s), sampling_error(states), span)


def marginal_time(states: States, flow_times: NDArray[np.float64]) -> Estimate:
    """The t at which forward-noised final latents have the fine energy of x_t: m = (1 − t)² + t² h.

    h is the fine energy of the final latents; in the expectation over fresh noise nothing else remains. Of the two
    solutions the one nearest to the sampler's time is meant: where data have as much fine detail as noise, energy
    falls and rises again. An energy below the curve's least is that of its least.
    """
    energy = torch.stack([fine_energy(state) for state in states]).double().numpy()
    nominal = flow_times[:, None]

    def solve(m: NDArray[np.float64], h: NDArray[np.float64]) -> NDArray[np.float64]:
        root = np.sqrt(np.maximum(1 - (1 + h) * (1 - m), 0))
        solutions = np.clip(np.stack([(1 - root) / (1 + h), (1 + root) / (1 + h)]), 0, 1)
        nearest = np.abs(solutions - nominal).argmin(0)
        return np.take_along_axis(solutions, nearest[None], 0)[0]

    return _with_error(solve, energy, energy[-1])


def _with_error(
    function: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    by_image: PerImage,
    end_by_image: NDArray[np.float64],
) -> Estimate:
    """A function of two means over images, with its standard error by the jackknife."""
    count = len(end_by_image)
    time = function(by_image.mean(1, keepdims=True), end_by_image.mean(keepdims=True))[:, 0]
    if count == 1:
        return Estimate(time, np.full_like(time, np.nan))
    without = (by_image.sum(1, keepdims=True) - by_image) / (count - 1)
    end_without = (end_by_image.sum() - end_by_image) / (count - 1)
    spread = function(without, end_without[None])
    return Estimate(time, np.sqrt((count - 1) * spread.var(1)))
