"""The effective times of targets whose velocity field is known in closed form; no network."""

import numpy as np
import pytest
import torch

from semantic_routing.analysis.effective_time import (
    fine_energy,
    forward_error,
    marginal_time,
    paired_time,
    psnr,
    sampling_error,
)
from semantic_routing.analysis.samples import gaussian

SHAPE = (3, 32, 32)
IMAGES = 64
TIMES = np.linspace(0, 1, 11)


def integrate(velocity, noise, substeps=400):
    """Euler steps of dx/dt = velocity(x, t), with the states at `TIMES`."""
    states, x, steps = [noise], noise.double(), substeps * (len(TIMES) - 1)
    for step in range(steps):
        x = x + velocity(x, step / steps) / steps
        if (step + 1) % substeps == 0:
            states.append(x.float())
    return torch.stack(states)


def gaussian_field(s):
    def velocity(x, t):
        variance = (1 - t) ** 2 + t**2 * s**2
        return (t * s**2 - (1 - t)) / variance * x

    return velocity


def test_for_a_single_point_both_times_are_the_samplers():
    row, column = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    point = torch.stack([row, column, row * column])
    states = integrate(lambda x, t: (point - x) / (1 - t), gaussian(IMAGES, SHAPE, 0), 40)
    np.testing.assert_allclose(paired_time(states).time, TIMES, atol=0.005)
    np.testing.assert_allclose(marginal_time(states, TIMES).time, TIMES, atol=0.005)


@pytest.mark.parametrize("s", [0.1, 0.5, 1.0, 2.0])
def test_for_a_gaussian_the_marginal_time_is_the_samplers_and_the_paired_one_is_ahead(s):
    states = integrate(gaussian_field(s), gaussian(IMAGES, SHAPE, 0))
    wanted = 1 - np.abs(np.sqrt((1 - TIMES) ** 2 + TIMES**2 * s**2) - s) / np.sqrt(1 + s**2)
    np.testing.assert_allclose(paired_time(states).time, wanted, atol=0.01)
    marginal = marginal_time(states, TIMES)
    # Where the energy curve turns, at t = 1 / (1 + s²), it says little of the time, and the standard error says so.
    turning = np.abs(TIMES - 1 / (1 + s**2)) < 0.11
    np.testing.assert_allclose(marginal.time[~turning], TIMES[~turning], atol=0.01)
    np.testing.assert_allclose(marginal.time[turning], TIMES[turning], atol=0.06)


def test_the_paired_time_of_a_unit_gaussian_at_one_half_is_079():
    states = integrate(gaussian_field(1.0), gaussian(IMAGES, SHAPE, 0))
    assert paired_time(states).time[5] == pytest.approx(0.793, abs=0.005)


def test_a_trajectory_that_runs_ahead_is_measured_as_such():
    smooth = torch.nn.functional.interpolate(gaussian(IMAGES, (3, 4, 4), 5), 32, mode="bilinear")
    noise = gaussian(IMAGES, SHAPE, 0)
    ahead = TIMES + 0.1 * np.sin(np.pi * TIMES)
    states = torch.stack([(1 - t) * noise + t * smooth for t in ahead]).float()
    np.testing.assert_allclose(marginal_time(states, TIMES).time, ahead, atol=0.01)


def test_the_standard_error_covers_what_other_noise_gives():
    estimates = [
        marginal_time(integrate(gaussian_field(0.3), gaussian(8, (1, 8, 8), 100 * k), 40), TIMES) for k in range(30)
    ]
    spread = np.std([estimate.time[4] for estimate in estimates])
    assert np.mean([estimate.error[4] for estimate in estimates]) == pytest.approx(spread, rel=0.5)


def test_on_the_forward_process_itself_both_distances_to_the_end_are_equal():
    noise, end = gaussian(64, SHAPE, 0), gaussian(64, SHAPE, 900)
    states = torch.stack([(1 - t) * noise + t * end for t in TIMES]).float()
    sampled, forward = sampling_error(states), forward_error(end, TIMES)
    np.testing.assert_allclose(sampled.mean(1), forward.mean(1), rtol=0.01, atol=1e-6)
    np.testing.assert_allclose(forward[0], 1 + end.square().mean((1, 2, 3)), rtol=1e-5)


def test_a_trajectory_that_runs_ahead_is_nearer_to_its_end_than_the_forward_process():
    noise, end = gaussian(IMAGES, SHAPE, 0), gaussian(IMAGES, SHAPE, 900)
    states = torch.stack([(1 - t) * noise + t * end for t in np.sqrt(TIMES)]).float()
    sampled, forward = sampling_error(states).mean(1), forward_error(end, TIMES).mean(1)
    assert (sampled[1:-1] < 0.9 * forward[1:-1]).all()


def test_psnr_is_20_decibels_where_the_error_is_a_tenth_of_the_range():
    end = torch.zeros(1, 1, 2, 2)
    end[..., 0, 0] = 2.0
    assert psnr(np.array([[0.04]]), end)[0, 0] == pytest.approx(20)


def test_fine_energy_of_white_noise_is_1_and_of_a_ramp_0():
    assert fine_energy(gaussian(64, SHAPE, 0)).mean().item() == pytest.approx(1, abs=0.01)
    assert fine_energy(torch.linspace(0, 1, 8)[None, :, None].expand(1, 8, 8)).item() == pytest.approx(0, abs=1e-12)
