"""Distances between distributions over layers, and their center and spread (paper, eq. 14 to 17), in float64."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Distributions = Float[np.ndarray, "... layers"]


def layer_positions(layers: Sequence[int]) -> Float[np.ndarray, " layers"]:
    """l_i of eq. 15: places of layers on [0, 1], first to last. Layers that a pruned model has lost leave gaps."""
    numbers = np.asarray(layers, dtype=np.float64)
    span = numbers[-1] - numbers[0]
    return (numbers - numbers[0]) / span if span else np.zeros_like(numbers)


def normalized(weights: Distributions) -> Distributions:
    """p of eq. 14, with ε = 0: weights over their sum."""
    return weights / weights.sum(-1, keepdims=True)


def similarity_matrix(weights: Float[np.ndarray, "rows layers"]) -> Float[np.ndarray, "rows rows"]:
    """1 minus the Jensen-Shannon divergence to base 2: 1 means equal, 0 that no layer is shared."""
    from scipy.special import rel_entr

    p, q = weights[:, None], weights[None]
    mean = (p + q) / 2
    divergence = (rel_entr(p, mean) + rel_entr(q, mean)).sum(-1) / (2 * np.log(2))
    return np.clip(1 - divergence, 0, 1)  # rounding may leave it by a last bit


def wasserstein(p: Distributions, q: Distributions, positions: Float[np.ndarray, " layers"]) -> NDArray[np.float64]:
    """1-Wasserstein distance between distributions over places on a line."""
    from scipy.stats import wasserstein_distance

    distance = np.vectorize(
        lambda first, second: wasserstein_distance(positions, positions, first, second), signature="(n),(n)->()"
    )
    return np.asarray(distance(p, q))


def center(weights: Distributions, positions: Float[np.ndarray, " layers"]) -> NDArray[np.float64]:
    """Semantic center μ = Σ p_i l_i (eq. 16): the mean depth that is read, 0 the shallowest layer and 1 the deepest."""
    return np.asarray(weights @ positions)


def dispersion(weights: Distributions, positions: Float[np.ndarray, " layers"]) -> NDArray[np.float64]:
    """Semantic dispersion σ² = Σ p_i (l_i − μ)² (eq. 17): the variance of the depth that is read."""
    return np.asarray((weights * (positions - center(weights, positions)[..., None]) ** 2).sum(-1))
