import math

import pytest
import torch

from semantic_routing.fusion.timestep_map import TimestepMap, paper_shift


def test_it_is_linear_between_points_and_constant_outside():
    gate_time = TimestepMap([(800.0, 600.0), (200.0, 100.0)])
    times = torch.tensor([1000.0, 800.0, 500.0, 350.0, 200.0, 0.0])
    assert gate_time(times).tolist() == pytest.approx([600, 600, 350, 225, 100, 100])


def test_a_single_point_is_one_time_for_all():
    assert TimestepMap([(0.0, 300.0)])(torch.tensor([0.0, 1000.0])).tolist() == [300, 300]


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([], "at least one"),
        ([(1.0, 2.0, 3.0)], "at least one"),
        ([(0.0, 1200.0)], "not at 1200"),
        ([(5.0, 1.0), (5.0, 2.0)], "share"),
    ],
)
def test_points_that_make_no_map(points, sentence):
    with pytest.raises(ValueError, match=sentence):
        TimestepMap(points)


@pytest.mark.parametrize("amplitude", [0.01, 0.1, -0.2])
def test_the_papers_shift_is_eq_11(amplitude):
    times = [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.9, 1.0]
    shifted = [t + amplitude * (1 - math.cos(math.pi * (t - 0.2) / 0.8)) if t > 0.2 else t for t in times]
    seen = 1 - paper_shift(amplitude)(1000 * (1 - torch.tensor(times))) / 1000
    assert seen.tolist() == pytest.approx(shifted, abs=1e-6)


def test_the_papers_amplitude_is_001_and_reaches_002_at_the_end():
    assert paper_shift()(torch.tensor([0.0])).item() == pytest.approx(-20, abs=1e-3)
    assert paper_shift() is paper_shift()


def test_the_gates_time_never_turns_back():
    seen = paper_shift(-0.8 / math.pi)(torch.linspace(1000, 0, 2001))
    assert seen.diff().max() < 1e-3
    with pytest.raises(ValueError, match=r"-0\.3 would turn the gate's time back; at least -0\.255"):
        paper_shift(-0.3)
