"""Intervals hold the truth as often as they say, for few runs, for few prompts, and near the ends of the scale."""

import numpy as np
import pytest
from scipy.stats import t as student

from benchmarks.coverage import World, covered
from semantic_routing.reporting.intervals import difference, holm, score, verdict

WORLDS = [
    World(runs=3, spread=0.0),
    World(runs=3, spread=0.3),
    World(runs=3, spread=0.6),
    World(runs=5, spread=0.6, difficulty=3.0),
    World(runs=1, spread=0.0),
    World(runs=1, spread=0.0, difficulty=4.0),
]


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_intervals_hold_the_truth_95_times_of_100(world):
    hits = covered(world, trials=200)
    # Where 0.95 is true, less than 0.9 comes once in a thousand times.
    assert hits.score >= 0.9
    assert hits.difference >= 0.9


def test_one_run_says_nothing_of_others():
    assert covered(World(runs=1, spread=0.6), trials=100).difference < 0.6


def test_nothing_right_is_not_certainty():
    none, all_right = score([np.zeros(80)]), score([np.ones(80)])
    assert none[:2] == pytest.approx((0, 0), abs=1e-12)
    assert none.high == pytest.approx(0.0458, abs=1e-4)  # Wilson's
    assert (all_right.high, all_right.low) == (pytest.approx(1), pytest.approx(1 - none.high))
    # Three runs of 80 are 240 values.
    assert score([np.zeros((3, 80))]).high == pytest.approx(0.0158, abs=1e-4)


def test_a_large_group_cannot_make_up_for_a_small_one():
    # The mean of means of 3 x 10 and 3 x 1000 values is as certain as that of 3 x 4 / (1/10 + 1/1000) values.
    count, t = 12 / (1 / 10 + 1 / 1000), student.ppf(0.975, np.inf)
    assert score([np.zeros((3, 10)), np.zeros((3, 1000))]).high == pytest.approx(t**2 / (count + t**2), rel=1e-6)


def test_a_share_has_wilsons_interval():
    found = score([np.repeat([0.0, 1.0], [300, 100])])
    assert found.mean == 0.25
    # Wilson, 1927, for 100 of 400.
    assert found[1:3] == pytest.approx((0.2101, 0.2947), abs=2e-3)


def test_scores_on_another_scale_are_the_same_interval_stretched():
    values = np.random.default_rng(0).random(50)
    inner, outer = score([values]), score([1 + 4 * values], (1.0, 5.0))
    assert [1 + 4 * end for end in inner[:3]] == pytest.approx(outer[:3])


def test_groups_count_alike_whatever_their_size():
    assert score([np.zeros(10), np.ones(1000)]).mean == 0.5
    assert score([np.zeros(10), []]) is None
    assert score([]) is None
    assert score([[0.3]]).low < 0.1 < 0.8 < score([[0.3]]).high, "a single prompt says next to nothing"


def test_a_group_of_one_varies_as_all_values_do():
    found = difference([[1.0], [0.0, 2.0, 1.0]])
    # Variances of the groups' means: 2/3 of all four values, and 1 of the three over 3.
    parts = np.array([2 / 3, 1 / 3]) / 4
    freedom = parts.sum() ** 2 / (parts**2 / [1, 2]).sum()
    assert found.high - found.mean == pytest.approx(student.ppf(0.975, freedom) * parts.sum() ** 0.5)


def test_runs_are_the_sample_and_prompts_are_fixed():
    prompts = np.random.default_rng(0).standard_normal(500)
    runs = np.stack([prompts + shift for shift in (0.01, 0.02, 0.03)])
    found = difference([runs - prompts])
    assert found.mean == pytest.approx(0.02)
    assert found.high - found.mean == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)  # t with 2 degrees of freedom


def test_pairs_that_never_differ_leave_something_open():
    found = difference([np.zeros(80)])
    assert (found.mean, found.p_value) == (0, 1)
    assert found.high == -found.low == pytest.approx(0.035, abs=1e-3)
    assert difference([np.zeros((3, 80))]).high < found.high


def test_equal_differences_are_as_uncertain_as_their_size():
    all_same, none = difference([np.full(80, 0.25)]), difference([np.zeros(80)])
    assert all_same.high - 0.25 == pytest.approx(none.high / 4)
    assert difference([np.zeros(80)], width=4.0).high == pytest.approx(4 * none.high)


def test_holm_is_stricter_the_more_there_are():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert max(holm([0.5, 0.9])) == 1
    # A family of true null hypotheses has one false alarm in twenty.
    random = np.random.default_rng(0)
    alarms = [min(holm(random.random(7).tolist())) < 0.05 for _ in range(1000)]
    assert 0.03 < np.mean(alarms) < 0.07


def test_verdicts_in_words():
    clear = difference([np.full((3, 5), 0.1) + np.array([[0.0], [0.001], [0.002]])])
    assert verdict(clear, clear.p_value, "?") == "better"
    assert verdict(clear, clear.p_value, "?", less_is_better=True) == "worse"
    assert verdict(clear, 0.3, "0.1") == "no difference larger than 0.1"
