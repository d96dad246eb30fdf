"""What a host learned to predict, by its own scheduler: noisy latents, and what its output is compared with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from ..flow import interpolate, loss_weight, sample_timesteps
from ..flow_config import FlowConfig
from ..pipelines.schedule import follows_flow

Rows = Float[Tensor, "batch ..."]
PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Noising(ABC):
    """A way from data to noise. Timesteps lie in [0, 1000], and 1000 is noise."""

    @abstractmethod
    def draw(self, generators: Sequence[torch.Generator]) -> Float[Tensor, " batch"]:
        """A timestep for each generator, on the CPU."""

    @abstractmethod
    def noisy(self, latents: Rows, noise: Rows, timestep: Float[Tensor, " batch"]) -> Rows:
        """Noisy latents at each row's timestep."""

    @abstractmethod
    def target(self, latents: Rows, noise: Rows, timestep: Float[Tensor, " batch"]) -> Rows:
        """What the host's output should be; of a flow, the velocity from data to noise."""

    @abstractmethod
    def level(self, sigma: float) -> tuple[float, float]:
        """The timestep with the signal-to-noise ratio ((1 − σ) / σ)², and how large noisy latents are there.

        The size is a factor of (1 − σ) · data + σ · noise.
        """

    @abstractmethod
    def clean(self, noisy: Rows, output: Rows, sigma: float) -> Rows:
        """The data that an output means, of noisy latents at `level(sigma)`; of a flow the output is as `target`."""

    def weight(self, timestep: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """What the loss of each row counts."""
        return torch.ones_like(timestep)


class FlowNoising(Noising):
    """Straight lines, with logit-normal timesteps.

    Args:
        flow: how timesteps are drawn and weighted.
    """

    def __init__(self, flow: FlowConfig) -> None:
        self.flow = flow

    def draw(self, generators: Sequence[torch.Generator]) -> Float[Tensor, " batch"]:
        """See `sample_timesteps`."""
        return sample_timesteps(generators, self.flow.timestep_mean, self.flow.timestep_std, self.flow.shift)

    def noisy(self, latents: Rows, noise: Rows, timestep: Float[Tensor, " batch"]) -> Rows:
        """See `interpolate`."""
        return interpolate(latents, noise, timestep)

    def target(self, latents: Rows, noise: Rows, timestep: Float[Tensor, " batch"]) -> Rows:
        """Noise minus data."""
        return noise - latents

    def level(self, sigma: float) -> tuple[float, float]:
        """The noise level itself."""
        return 1000 * sigma, 1.0

    def clean(self, noisy: Rows, output: Rows, sigma: float) -> Rows:
        """Back along the line."""
        return noisy - sigma * output

    def weight(self, timestep: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """See `loss_weight`."""
        return loss_weight(timestep, self.flow.weight_power)


class DiffusionNoising(Noising):
    """The variances of a diffusion scheduler, with timesteps that are whole numbers, all equally often.

    Args:
        scheduler: any of that kind; its betas and its prediction type count.
    """

    def __init__(self, scheduler: SchedulerMixin) -> None:
        self.scheduler = DDPMScheduler.from_config(scheduler.config)

    def draw(self, generators: Sequence[torch.Generator]) -> Float[Tensor, " batch"]:
        """Uniform."""
        steps = int(self.scheduler.config.num_train_timesteps)
        return torch.cat([torch.randint(steps, (1,), generator=generator) for generator in generators]).float()

    def noisy(self, latents: Rows, noise: Rows, timestep: Float[Tensor, " batch"]) -> Rows:
        """See the scheduler's `add_noise`."""
        made: Tensor = self.scheduler.add_noise(latents, noise, timestep.long())
        return made

    def target(self, latents: Rows, noise: Rows, timestep: Float[Tensor, " batch"]) -> Rows:
        """Noise, the sample or the scheduler's own velocity, by its prediction type."""
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            made: Tensor = self.scheduler.get_velocity(latents, noise, timestep.long())
            return made
        return noise if kind == "epsilon" else latents

    def level(self, sigma: float) -> tuple[float, float]:
        """Between whole timesteps by the logarithm of the ratio; the last one where there is still more noise."""
        kept = self.scheduler.alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)
        log_snr, wanted = (kept / (1 - kept)).log().numpy(), 2 * math.log((1 - sigma) / sigma)
        timestep = float(np.interp(wanted, log_snr[::-1], np.arange(len(kept))[::-1]))
        return timestep, 1 / math.hypot(1 - sigma, sigma)

    def clean(self, noisy: Rows, output: Rows, sigma: float) -> Rows:
        """By the scheduler's prediction type."""
        size, kind = math.hypot(1 - sigma, sigma), self.scheduler.config.prediction_type
        signal, noise = (1 - sigma) / size, sigma / size
        if kind == "v_prediction":
            return signal * noisy - noise * output
        return (noisy - noise * output) / signal if kind == "epsilon" else output


def make_noising(scheduler: SchedulerMixin, flow: FlowConfig | None) -> Noising:
    """The way to noise that a scheduler comes back.

    Args:
        scheduler: of a pipeline.
        flow: how timesteps of a flow are drawn; None takes its shift from the scheduler.

    Raises:
        ValueError: the scheduler is of no known kind, or `flow` is given for one that follows none.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if follows_flow(scheduler):
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        return FlowNoising(flow or FlowConfig(shift=shift))
    if flow is not None:
        raise ValueError(f"flow draws timesteps of a host that follows a flow, and the scheduler is {name}.")
    if config.get("prediction_type") not in PREDICTIONS:
        raise ValueError(
            f"{name} with prediction_type {config.get('prediction_type')!r} cannot be trained for: expected a flow, or "
            f"one of {', '.join(PREDICTIONS)}."
        )
    return DiffusionNoising(scheduler)
