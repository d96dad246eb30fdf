"""Between images and what the DiT denoises: latents of an autoencoder, or the images themselves where there is none."""

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]
Latents = Float[Tensor, "batch channels latent_height latent_width"]


class LatentCodec:
    """Encodes and decodes images in [-1, 1].

    Args:
        vae: an `AutoencoderKL`, or None to denoise pixels.
    """

    def __init__(self, vae: Any | None = None) -> None:
        self.vae = vae

    @property
    def channels(self) -> int:
        """Latent channels."""
        return 3 if self.vae is None else int(self.vae.config.latent_channels)

    @property
    def downsampling(self) -> int:
        """Image pixels a side of a latent pixel."""
        return 1 if self.vae is None else int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, images: Images, generators: list[torch.Generator]) -> Latents:
        """Draws latents from the posterior, (z − shift) · scale in float32, with one generator an image."""
        if self.vae is None:
            return images
        posterior = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        # float32: the posterior's spread is small beside its mean.
        mean, std = posterior.mean.float(), posterior.std.float()
        z = mean + std * randn_tensor(mean.shape, generators, mean.device, torch.float32)
        return (z - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Images of latents."""
        if self.vae is None:
            return latents
        z = latents / self.vae.config.scaling_factor + self._shift
        return self.vae.decode(z.to(self.vae.dtype), return_dict=False)[0]

    @property
    def _shift(self) -> float:
        return self.vae.config.shift_factor or 0.0  # type: ignore[union-attr]
