import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from semantic_routing.analysis.statistics import (
    center,
    dispersion,
    layer_positions,
    normalized,
    similarity_matrix,
    wasserstein,
)

LAYERS = 12
RNG = np.random.default_rng(0)
TWO_PEAKED = np.exp(-((np.arange(LAYERS) - 2.0) ** 2)) + np.exp(-((np.arange(LAYERS) - 9.0) ** 2) / 2)
FAMILY = np.stack(
    [
        *RNG.dirichlet(np.ones(LAYERS), 4),
        *RNG.dirichlet(np.full(LAYERS, 0.05), 3),
        np.eye(LAYERS)[0],
        np.eye(LAYERS)[7],
        np.eye(LAYERS)[-1],
        np.full(LAYERS, 1 / LAYERS),
        TWO_PEAKED / TWO_PEAKED.sum(),
    ]
)
POSITIONS = layer_positions(range(1, LAYERS + 1))


def test_similarity_is_one_minus_the_divergence_to_base_2():
    # Written out: Σ p log2(p / m), where a layer without weight adds nothing.
    def entropy(p, m):
        return sum(a * np.log2(a / b) for a, b in zip(p, m, strict=True) if a > 0)

    wanted = [[1 - (entropy(p, (p + q) / 2) + entropy(q, (p + q) / 2)) / 2 for q in FAMILY] for p in FAMILY]
    np.testing.assert_allclose(similarity_matrix(FAMILY), wanted, atol=1e-12)
    distance = np.array([[jensenshannon(p, q, base=2) for q in FAMILY] for p in FAMILY])
    np.testing.assert_allclose(similarity_matrix(FAMILY), 1 - np.nan_to_num(distance) ** 2, atol=1e-6)


def test_similarity_is_1_for_equal_and_0_for_disjoint_weights():
    matrix = similarity_matrix(np.eye(3))
    np.testing.assert_allclose(matrix, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("layers", [list(range(1, LAYERS + 1)), [1, 2, 4, 5, 6, 9, 10, 13, 20, 21, 22, 36]])
def test_wasserstein_is_the_area_between_distribution_functions(layers):
    positions = layer_positions(layers)
    seen = wasserstein(FAMILY[:, None], FAMILY[None], positions)
    difference = np.abs(np.cumsum(FAMILY[:, None] - FAMILY[None], axis=-1))[..., :-1]
    np.testing.assert_allclose(seen, (difference * np.diff(positions)).sum(-1), atol=1e-12)


def test_weights_that_do_not_sum_to_1_are_normalized():
    np.testing.assert_allclose(normalized(3 * FAMILY), FAMILY, atol=1e-15)


def test_all_weight_from_first_to_last_layer_is_distance_1():
    assert wasserstein(FAMILY[7], FAMILY[9], POSITIONS) == pytest.approx(1)


def test_center_and_dispersion_are_mean_and_variance():
    means = [np.average(POSITIONS, weights=p) for p in FAMILY]
    np.testing.assert_allclose(center(FAMILY, POSITIONS), means, atol=1e-12)
    variances = [np.average((POSITIONS - mean) ** 2, weights=p) for p, mean in zip(FAMILY, means, strict=True)]
    np.testing.assert_allclose(dispersion(FAMILY, POSITIONS), variances, atol=1e-12)


@pytest.mark.parametrize("count", [2, 6, 36])
def test_uniform_weights_have_center_half_and_the_closed_form_dispersion(count):
    uniform, positions = np.full(count, 1 / count), layer_positions(range(count))
    assert center(uniform, positions) == pytest.approx(0.5)
    assert dispersion(uniform, positions) == pytest.approx((count + 1) / (12 * (count - 1)))


def test_a_single_layer_lies_at_0():
    assert layer_positions([5]).tolist() == [0.0]


def test_positions_keep_the_gaps_of_a_pruned_model():
    assert layer_positions([2, 3, 6]).tolist() == [0.0, 0.25, 1.0]
