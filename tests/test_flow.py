import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import normal

from semantic_routing.flow import (
    expand_sigma,
    flow_matching_loss,
    guide,
    interpolate,
    loss_weight,
    sample_timesteps,
    velocity,
)

DATA, NOISE = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
TIMES = torch.tensor([1.0, 400.0, 1000.0])


def draw(count: int, **options: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return sample_timesteps([generator] * count, **options)


def test_the_path_starts_at_noise_and_ends_at_data() -> None:
    assert interpolate(DATA, NOISE, torch.full((3,), 1000.0)).equal(NOISE)
    assert interpolate(DATA, NOISE, torch.zeros(3)).equal(DATA)
    half = interpolate(DATA, NOISE, torch.full((3,), 500.0))
    torch.testing.assert_close(half, (DATA + NOISE) / 2)


def test_each_row_has_its_own_time() -> None:
    noisy = interpolate(DATA, NOISE, TIMES)
    for row, time in enumerate(TIMES):
        torch.testing.assert_close(noisy[row], DATA[row] + time / 1000 * (NOISE[row] - DATA[row]))
    assert expand_sigma(TIMES, DATA).shape == (3, 1, 1, 1)


def test_half_precision_loses_nothing_but_its_own_rounding() -> None:
    times = torch.full((3,), 999.5)
    exact = interpolate(DATA, NOISE, times)
    rounded = interpolate(DATA.bfloat16(), NOISE.bfloat16(), times)
    assert rounded.dtype == torch.bfloat16
    assert rounded.equal(interpolate(DATA.bfloat16().float(), NOISE.bfloat16().float(), times).bfloat16())
    assert (rounded.float() - exact).abs().max() < 0.02


def test_velocity_is_the_derivative_of_the_path_by_sigma() -> None:
    step = 0.5
    slope = (interpolate(DATA, NOISE, TIMES - 0.5 + step) - interpolate(DATA, NOISE, TIMES - 0.5)) / (step / 1000)
    torch.testing.assert_close(slope, NOISE - DATA, rtol=1e-2, atol=1e-2)
    perfect = flow_matching_loss(NOISE - DATA, DATA, NOISE, "velocity")
    assert perfect.tolist() == [0.0, 0.0, 0.0]


def test_a_predicted_sample_stands_for_its_velocity() -> None:
    noisy = interpolate(DATA, NOISE, TIMES)
    torch.testing.assert_close(velocity(DATA, noisy, TIMES, "sample"), NOISE - DATA, rtol=1e-2, atol=1e-3)
    output = normal(3, 2, 4, 4, seed=2)
    assert velocity(output, noisy, TIMES, "velocity").equal(output)
    assert flow_matching_loss(DATA, DATA, NOISE, "sample").tolist() == [0.0, 0.0, 0.0]


def test_the_two_losses_differ_by_the_square_of_sigma() -> None:
    noisy, output = interpolate(DATA, NOISE, TIMES), normal(3, 2, 4, 4, seed=2)
    as_sample = flow_matching_loss(output, DATA, NOISE, "sample")
    as_velocity = flow_matching_loss(velocity(output, noisy, TIMES, "sample"), DATA, NOISE, "velocity")
    torch.testing.assert_close(as_sample * loss_weight(TIMES, 2.0), as_velocity, rtol=1e-2, atol=1e-4)
    assert loss_weight(TIMES, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_the_loss_is_float32_and_keeps_rows_apart() -> None:
    output = (NOISE - DATA).bfloat16()
    output[1] += 1
    losses = flow_matching_loss(output, DATA, NOISE, "velocity")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 0.0]), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (-1.0, 0.4)])
def test_timesteps_are_logit_normal(mean: float, std: float) -> None:
    times = draw(4000, mean=mean, std=std)
    logits = torch.logit(times.double() / 1000)
    assert times.dtype == torch.float32
    assert times.min() > 0
    assert times.max() < 1000
    assert abs(logits.mean() - mean) < 4 * std / 4000**0.5
    assert abs(logits.std() / std - 1) < 0.05
    assert abs((((logits - mean) / std).abs() < 1).double().mean() - 0.683) < 0.03


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_shift_is_the_schedulers(shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    sigma = draw(50).double() / 1000
    expected = shift * sigma / (1 + (shift - 1) * sigma)
    torch.testing.assert_close(draw(50, shift=shift).double() / 1000, expected, rtol=1e-5, atol=1e-6)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    half = (scheduler.sigmas - shift * 0.5 / (1 + (shift - 1) * 0.5)).abs().min()
    assert half < 1e-3


def test_a_timestep_belongs_to_its_generator_and_not_to_its_batch() -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = sample_timesteps(generators(3, 4, 5))
    alone = torch.cat([sample_timesteps(generators(seed)) for seed in (3, 4, 5)])
    assert together.equal(alone)
    assert len(set(together.tolist())) == 3


@settings(deadline=None)
@given(st.floats(0, 20))
def test_guidance_extrapolates(scale: float) -> None:
    guided = guide(NOISE, DATA, scale)
    torch.testing.assert_close(guided, (1 - scale) * NOISE + scale * DATA, rtol=1e-4, atol=1e-4)


def test_guidance_of_one_is_the_conditional_prediction() -> None:
    torch.testing.assert_close(guide(NOISE, DATA, 1.0), DATA)
    assert guide(NOISE, DATA, 0.0).equal(NOISE)
