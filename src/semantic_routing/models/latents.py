"""Between images and what the DiT denoises: latents of an autoencoder, or the images themselves where there is none."""

from typing import TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]
Posteriors = Float[Tensor, "batch mean_and_log_variance latent_height latent_width"]
Latents = Float[Tensor, "batch channels latent_height latent_width"]


VideoAutoencoder: TypeAlias = AutoencoderKLWan | AutoencoderKLQwenImage
"""To them an image is a video of one frame, and each channel has a mean and a spread of its own."""


class PosteriorCodec:
    """Draws latents from an autoencoder's posteriors, which may have been computed ahead.

    Args:
        scaling_factor: of the autoencoder; one for all channels, or one a channel.
        shift_factor: of the autoencoder, as well.
    """

    def __init__(self, scaling_factor: float | Tensor, shift_factor: float | Tensor) -> None:
        self.scaling_factor = scaling_factor
        self.shift_factor = shift_factor

    def encode(self, posteriors: Posteriors, generators: list[torch.Generator]) -> Latents:
        """Draws latents from posteriors, (z − shift) · scale in float32, with one generator an image."""
        posterior = DiagonalGaussianDistribution(posteriors)
        # float32: the posterior's spread is small beside its mean.
        mean, std = posterior.mean.float(), posterior.std.float()
        z = mean + std * randn_tensor(mean.shape, generators, mean.device, torch.float32)
        return (z - self.shift_factor) * self.scaling_factor


class LatentCodec:
    """Encodes and decodes images in [-1, 1].

    Args:
        vae: None to denoise pixels.
    """

    def __init__(self, vae: AutoencoderKL | AutoencoderDC | VideoAutoencoder | None = None) -> None:
        self.vae = vae

    @property
    def channels(self) -> int:
        """Latent channels."""
        if self.vae is None:
            return 3
        return int(self.vae.config["z_dim" if isinstance(self.vae, VideoAutoencoder) else "latent_channels"])

    @property
    def downsampling(self) -> int:
        """Image pixels a side of a latent pixel."""
        if self.vae is None:
            return 1
        config = self.vae.config
        if isinstance(self.vae, VideoAutoencoder):
            return int(config.get("scale_factor_spatial") or 2 ** len(config.temperal_downsample))
        blocks = config.encoder_block_out_channels if isinstance(self.vae, AutoencoderDC) else config.block_out_channels
        return int(2 ** (len(blocks) - 1))

    def encode(self, images: Images, generators: list[torch.Generator]) -> Latents:
        """Draws a latent of each image with its own generator; without an autoencoder, gives the images themselves."""
        if self.vae is None:
            return images
        if isinstance(self.vae, AutoencoderDC):  # which has one latent an image and no posterior
            return self._latent(images) * self.vae.config.scaling_factor
        return PosteriorCodec(*self._scale_and_shift(images.device)).encode(self.posteriors(images), generators)

    @torch.no_grad()
    def _latent(self, images: Images) -> Latents:
        return self.vae.encode(images.to(self.vae.dtype)).latent.float()  # type: ignore[union-attr]

    @torch.no_grad()
    def posteriors(self, images: Images) -> Posteriors:
        """Mean and log-variance of what the autoencoder makes of each image, in its own dtype."""
        images = images.to(self.vae.dtype)  # type: ignore[union-attr]
        if isinstance(self.vae, VideoAutoencoder):
            return self.vae.encode(images[:, :, None]).latent_dist.parameters[:, :, 0]
        return self.vae.encode(images).latent_dist.parameters  # type: ignore[union-attr]

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Images of latents."""
        if self.vae is None:
            return latents
        scale, shift = self._scale_and_shift(latents.device)
        z = (latents / scale + shift).to(self.vae.dtype)
        if isinstance(self.vae, VideoAutoencoder):
            return self.vae.decode(z[:, :, None], return_dict=False)[0][:, :, 0]
        return self.vae.decode(z, return_dict=False)[0]

    def _scale_and_shift(self, device: torch.device) -> tuple[float | Tensor, float | Tensor]:
        """What makes latents of a size that a model likes: (z − shift) · scale."""
        config = self.vae.config  # type: ignore[union-attr]
        if isinstance(self.vae, VideoAutoencoder):
            means, spreads = torch.tensor([config.latents_mean, config.latents_std], device=device)[..., None, None]
            return 1 / spreads, means
        return config.scaling_factor, config.get("shift_factor") or 0.0
