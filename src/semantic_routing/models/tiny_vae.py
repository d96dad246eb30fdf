"""A tiny random autoencoder, to try things in seconds and without a network."""

import torch
from diffusers import AutoencoderKL


def tiny_vae(seed: int = 0) -> AutoencoderKL:
    """An `AutoencoderKL` of 4 latent channels, 2 pixels a latent pixel, with a shift like SD3's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=16,
            scaling_factor=1.5,
            shift_factor=0.06,
        )
