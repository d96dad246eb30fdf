"""One training step: a batch in, its loss out. There is no other."""

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from ..data import Batch
from ..flow import Prediction, flow_matching_loss, interpolate, loss_weight, sample_timesteps
from ..flow_config import FlowConfig
from ..models.latents import LatentCodec, PosteriorCodec
from ..text import TextEncoder, TextFeatures


def batch_loss(
    transformer: nn.Module,
    batch: Batch,
    encoder: TextEncoder | None,
    codec: LatentCodec | PosteriorCodec,
    flow: FlowConfig,
    prediction: Prediction,
    device: torch.device,
    dtype: torch.dtype,
) -> Float[Tensor, " batch"]:
    """The weighted flow-matching loss of each example, and what the fusion adds to it.

    Noise, timestep and latent of an example depend on its own seed alone, not on the batch, the number of processes or
    the device.

    Args:
        transformer: the diffusion transformer, perhaps wrapped for distributed training.
        batch: images and captions.
        encoder: makes hidden states of captions; None where the batch has them.
        codec: makes latents of images, or of their posteriors.
        flow: how timesteps are drawn and weighted.
        prediction: what the transformer's output means.
        device: where to compute.
        dtype: that the transformer computes in.
    """
    generators = [torch.Generator().manual_seed(int(seed)) for seed in batch.noise_seeds]
    latents = codec.encode(batch.images.to(device), generators)
    text = _features(batch, encoder).to(device, dtype)
    timestep = sample_timesteps(generators, flow.timestep_mean, flow.timestep_std, flow.shift).to(device)
    noise = randn_tensor(latents.shape, generators, device)
    output = transformer(interpolate(latents, noise, timestep), timestep, *text).sample
    losses = flow_matching_loss(output, latents, noise, prediction) * loss_weight(timestep, flow.weight_power)
    unwrapped: Any = getattr(transformer, "module", transformer)
    auxiliary = unwrapped.auxiliary_loss()
    return losses if auxiliary is None else losses + auxiliary


def _features(batch: Batch, encoder: TextEncoder | None) -> TextFeatures:
    if batch.features is not None:
        return TextFeatures.of(batch.features)
    if encoder is None:
        raise ValueError("The batch has no features of its captions, and there is no text encoder to make them.")
    return encoder(batch.captions)
