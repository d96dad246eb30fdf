"""Flow matching along straight lines: x_σ = (1 − σ) · data + σ · noise, whose velocity is noise − data."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .fusion.contract import NUM_TRAIN_TIMESTEPS

# What the network's output means. The clean sample has few dimensions, noise and velocity have all of them: in pixel
# space, where a patch has more values than the network has channels, predict the sample.
Prediction = Literal["velocity", "sample"]


def sample_timesteps(
    generators: Sequence[torch.Generator], mean: float = 0.0, std: float = 1.0, shift: float = 1.0
) -> Float[Tensor, " batch"]:
    """Draws logit-normal timesteps in (0, 1000), float32 on the CPU; 1000 is noise.

    Args:
        generators: one an example.
        mean: of logit(σ); above 0 trains noisier pictures more.
        std: of logit(σ).
        shift: the scheduler's shift s, σ ↦ sσ / (1 + (s − 1)σ); above 1 for large latents.
    """
    normal = torch.stack([torch.randn((), generator=generator) for generator in generators])
    sigma = torch.sigmoid(mean + std * normal)
    return NUM_TRAIN_TIMESTEPS * shift * sigma / (1 + (shift - 1) * sigma)


def expand_sigma(timestep: Float[Tensor, " batch"], like: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """σ = timestep / 1000 in float32, with trailing axes of 1 to go with `like`."""
    return (timestep.float() / NUM_TRAIN_TIMESTEPS).view(-1, *[1] * (like.ndim - 1))


def interpolate(
    sample: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch ..."], timestep: Float[Tensor, " batch"]
) -> Float[Tensor, "batch ..."]:
    """The noisy latent x_σ at each row's timestep, in the sample's dtype."""
    # float32: σ near 0 or 1 loses its distance to the end in half precision.
    sigma = expand_sigma(timestep, sample)
    return ((1 - sigma) * sample.float() + sigma * noise.float()).to(sample.dtype)


def velocity(
    output: Float[Tensor, "batch ..."],
    noisy: Float[Tensor, "batch ..."],
    timestep: Float[Tensor, " batch"],
    prediction: Prediction,
) -> Float[Tensor, "batch ..."]:
    """The velocity that the network's output stands for, in float32, at timesteps above 0."""
    if prediction == "velocity":
        return output.float()
    return (noisy.float() - output.float()) / expand_sigma(timestep, noisy)


def flow_matching_loss(
    output: Float[Tensor, "batch ..."],
    sample: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    prediction: Prediction,
) -> Float[Tensor, " batch"]:
    """Mean squared error in each row of what the network predicts, in float32.

    The error of a predicted sample is not turned into one of velocity, which is 1 / σ times as large; `loss_weight`
    can do so.
    """
    target = sample.float() if prediction == "sample" else noise.float() - sample.float()
    return F.mse_loss(output.float(), target, reduction="none").flatten(1).mean(1)


def loss_weight(timestep: Float[Tensor, " batch"], power: float) -> Float[Tensor, " batch"]:
    """σ^−power. With a predicted sample, 0 trains where most is unknown, and 2 is the squared error of the velocity."""
    return (timestep.float() / NUM_TRAIN_TIMESTEPS) ** -power


def guide(
    unconditional: Float[Tensor, "batch ..."], conditional: Float[Tensor, "batch ..."], scale: float
) -> Float[Tensor, "batch ..."]:
    """Classifier-free guidance: scale 1 is the conditional prediction, above it moves away from the unconditional."""
    return unconditional + scale * (conditional - unconditional)
