import pytest
import torch

from semantic_routing.fusion.timestep_map import TimestepMap, advanced


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


@pytest.mark.parametrize(("amplitude", "window"), [(0.1, (0.0, 1.0)), (-0.1, (0.2, 0.9)), (0.15, (0.5, 1.0))])
def test_the_advance_has_its_amplitude_and_window_and_never_turns_back(amplitude, window):
    time = torch.linspace(0, 1, 2001, dtype=torch.float64)
    seen = 1 - advanced(amplitude, *window)(1000 * (1 - time)).double() / 1000
    advance = seen - time
    inside = (time > window[0]) & (time < window[1])
    assert advance[~inside].abs().max() < 1e-5
    assert advance[advance.abs().argmax()].item() == pytest.approx(amplitude, abs=2e-4)
    assert time[advance.abs().argmax()].item() == pytest.approx(sum(window) / 2, abs=0.01)
    assert seen.diff().min() > -1e-6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [((0.1, 0.5, 0.5), "0.5 to 0.5"), ((0.1, -1.0, 1.0), "-1 to 1"), ((0.4, 0.0, 1.0), "at most 0.318")],
)
def test_an_advance_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        advanced(*options)
