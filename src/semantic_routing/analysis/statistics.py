"""Distances between distributions over layers, and their center and spread (paper, eq. 14 to 17), in float64."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Distributions = Float[np.ndarray, "... layers"]


def layer_positions(layers: Sequence[int]) -> Float[np.ndarray, " layers"]:
    """Places of layers on [0, 1], first to last; layers that a pruned model has lost leave their gaps."""
    numbers = np.asarray(layers, dtype=np.float64)
    span = numbers[-1] - numbers[0]
    return (numbers - numbers[0]) / span if span else np.zeros_like(numbers)


def similarity_matrix(weights: Float[np.ndarray, "rows layers"]) -> Float[np.ndarray, "rows rows"]:
    """1 minus the Jensen-Shannon divergence to base 2: 1 means equal, 0 that no layer is shared."""
    p, q = weights[:, None], weights[None]
    mean = (p + q) / 2
    divergence = (_relative_entropy(p, mean) + _relative_entropy(q, mean)) / 2
    return np.clip(1 - divergence, 0, 1)  # rounding may leave it by a last bit


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ p log2(p / q), where a layer without weight adds nothing."""
    ratio = np.divide(p, q, out=np.ones(np.broadcast_shapes(p.shape, q.shape)), where=(p > 0) & (q > 0))
    return np.asarray((p * np.log2(ratio)).sum(-1))


def wasserstein(p: Distributions, q: Distributions, positions: Float[np.ndarray, " layers"]) -> NDArray[np.float64]:
    """1-Wasserstein distance between distributions over places on a line: ∫ |P − Q| of their distribution functions."""
    difference = np.abs(np.cumsum(p - q, axis=-1))[..., :-1]
    return np.asarray((difference * np.diff(positions)).sum(-1))


def center(weights: Distributions, positions: Float[np.ndarray, " layers"]) -> NDArray[np.float64]:
    """Semantic center μ = Σ α_l u_l: the mean depth that is read, 0 the shallowest layer and 1 the deepest."""
    return np.asarray(weights @ positions)


def dispersion(weights: Distributions, positions: Float[np.ndarray, " layers"]) -> NDArray[np.float64]:
    """Semantic dispersion Σ α_l (u_l − μ)²: the variance of the depth that is read."""
    return np.asarray((weights * (positions - center(weights, positions)[..., None]) ** 2).sum(-1))
