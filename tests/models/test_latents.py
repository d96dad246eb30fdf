from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from tiny import normal

from semantic_routing.models.latents import LatentCodec


@pytest.fixture(scope="module")
def vae(vae_folder: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(vae_folder).eval()


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


IMAGES = normal(3, 3, 16, 24).clamp(-1, 1)


@torch.no_grad()
def test_latents_are_shifted_and_scaled(vae: AutoencoderKL) -> None:
    codec = LatentCodec(vae)
    assert (codec.channels, codec.downsampling) == (4, 2)
    posterior = vae.encode(IMAGES).latent_dist
    noise = torch.cat([torch.randn(1, 4, 8, 12, generator=generator) for generator in generators(0, 1, 2)])
    expected = (posterior.mean + posterior.std * noise - 0.06) * 1.5
    torch.testing.assert_close(codec.encode(IMAGES, generators(0, 1, 2)), expected)


@torch.no_grad()
def test_decoding_undoes_shift_and_scale(vae: AutoencoderKL) -> None:
    z = normal(2, 4, 8, 8)
    torch.testing.assert_close(
        LatentCodec(vae).decode((z - 0.06) * 1.5), vae.decode(z, return_dict=False)[0], rtol=1e-4, atol=1e-5
    )


def test_a_latent_depends_on_its_own_generator_alone(vae: AutoencoderKL) -> None:
    codec = LatentCodec(vae)
    together = codec.encode(IMAGES, generators(0, 1, 2))
    alone = codec.encode(IMAGES[1:2], generators(1))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert (codec.encode(IMAGES, generators(0, 5, 2))[1] - together[1]).abs().max() > 1e-5


def test_a_half_precision_autoencoder_gives_float32_latents(vae_folder: Path, vae: AutoencoderKL) -> None:
    halved = LatentCodec(AutoencoderKL.from_pretrained(vae_folder, dtype=torch.bfloat16))
    latents = halved.encode(IMAGES, generators(0, 1, 2))
    assert latents.dtype == torch.float32
    assert (latents - LatentCodec(vae).encode(IMAGES, generators(0, 1, 2))).abs().max() < 0.1
    assert halved.decode(latents).shape == IMAGES.shape


def test_without_an_autoencoder_images_are_latents() -> None:
    codec = LatentCodec()
    assert (codec.channels, codec.downsampling) == (3, 1)
    assert codec.encode(IMAGES, generators(0, 1, 2)) is IMAGES
    assert codec.decode(IMAGES) is IMAGES


def test_an_autoencoder_without_shift(vae: AutoencoderKL) -> None:
    plain = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2)
    assert plain.config.shift_factor is None
    codec = LatentCodec(plain.eval())
    assert codec.downsampling == 1
    assert codec.encode(IMAGES, generators(0, 1, 2)).shape == (3, 2, 16, 24)
