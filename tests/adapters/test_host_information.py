"""What `information` asks of hosts: predictions by their own schedulers, and their own text."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from tiny import normal
from tiny_hosts import with_packing_vae, with_vae

from semantic_routing.adapters import add_routing, find_routing
from semantic_routing.adapters.run import HostRun
from semantic_routing.evaluation.captioned import CaptionedPicture
from semantic_routing.evaluation.information import LOG_SNR, sigma_of
from semantic_routing.evaluation.information_host import host_denoiser
from semantic_routing.evaluation.information_run import COST, INFORMATION, measure
from semantic_routing.training.noising import DiffusionNoising, make_noising

SHORT = {"max_sequence_length": 10}
OPTIONS = {"PixArtSigmaPipeline": SHORT | {"clean_caption": False}, "FluxPipeline": SHORT, "Lumina2Pipeline": SHORT}
SCHEDULERS = [
    *(diffusers.DDPMScheduler(prediction_type=kind) for kind in ("epsilon", "v_prediction", "sample")),
    diffusers.FlowMatchEulerDiscreteScheduler(),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("log_snr", LOG_SNR)
def test_the_right_output_means_the_data(scheduler: object, log_snr: float) -> None:
    noising, sigma = make_noising(scheduler, None), sigma_of(log_snr)
    data, noise = normal(2, 4, 8, 8, seed=0), normal(2, 4, 8, 8, seed=1)
    timestep, size = noising.level(sigma)
    time = torch.full((2,), timestep)
    if isinstance(noising, DiffusionNoising):
        time = time.round()
    noisy = size * ((1 - sigma) * data + sigma * noise)
    # As training has it, but for the rounding of the timestep.
    assert (noising.noisy(data, noise, time) - noisy).square().mean().sqrt() < 0.01
    assert (noising.clean(noisy, noising.target(data, noise, time), sigma) - data).abs().max() < 0.05 / (1 - sigma)


@pytest.mark.parametrize("name", ["PixArtSigmaPipeline", "StableDiffusionPipeline", "Lumina2Pipeline"])
def test_a_perfect_host_gives_the_data(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its model may predict noise, or data minus noise."""
    run = HostRun(with_vae(name), 16, OPTIONS.get(name))
    data, noise = normal(2, run.codec.channels, 8, 8, seed=0), normal(2, run.codec.channels, 8, 8, seed=1)
    noising = make_noising(run.pipe.scheduler, None)

    def perfect(call: object, noisy: object, timestep: torch.Tensor, module: object) -> torch.Tensor:
        sign = -1 if name == "Lumina2Pipeline" else 1
        return sign * noising.target(data, noise, timestep)

    monkeypatch.setattr(run, "predict", perfect)
    made = host_denoiser(run)(["a star", "a circle"])(0.4 * data + 0.6 * noise, 0.6)
    torch.testing.assert_close(made, data, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["FluxPipeline", "QwenImagePipeline"])
def test_latents_as_rows_of_patches_come_back(name: str) -> None:
    run = HostRun(with_packing_vae(name), 16, OPTIONS["FluxPipeline"])
    data = normal(2, 4, 8, 8, seed=0)
    packed = run.packed(data, run.call(["a star", "a circle"]))
    assert packed.shape == (2, 16, 16)
    torch.testing.assert_close(run.unpacked(packed), data)
    images = run.codec.decode(data)
    assert images.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("WanPipeline", (1, 4, 1, 16, 16)), ("Kandinsky5T2IPipeline", (1, 1, 16, 16, 4))],
)
def test_images_are_videos_of_one_frame(name: str, shape: tuple[int, ...]) -> None:
    run = HostRun(with_vae(name), 32, {"max_sequence_length": 60})
    data = normal(1, 4, 16, 16, seed=0)
    packed = run.packed(data, run.call(["a star"]))
    assert packed.shape == shape
    assert run.unpacked(packed).equal(data)
    ends = run.sample(["a star"], packed, 2, 1.0)
    assert run.pictures(ends).shape == (1, 32, 32, 3)


def test_a_video_autoencoder_s_latents_have_a_mean_and_spread_for_each_channel() -> None:
    codec = HostRun(with_vae("WanPipeline"), 32).codec
    images = normal(1, 3, 16, 16, seed=1).clamp(-1, 1)
    posterior = codec.vae.encode(images[:, :, None]).latent_dist
    codec.vae.encode = lambda given: SimpleNamespace(
        latent_dist=SimpleNamespace(parameters=torch.cat([posterior.mean, torch.full_like(posterior.mean, -60)], 1))
    )
    latents = codec.encode(images, [torch.Generator().manual_seed(0)])
    mean, std = (torch.tensor(codec.vae.config[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(latents, (posterior.mean[:, :, 0] - mean) / std)
    decoded = codec.vae.decode(posterior.mean, return_dict=False)[0][:, :, 0]
    torch.testing.assert_close(codec.decode(latents), decoded)


def test_a_fresh_fusion_changes_no_nat_and_a_trained_one_does() -> None:
    pictures = [
        CaptionedPicture(f"p{number}", "colors", normal(3, 16, 16, seed=number).clamp(-1, 1), "a red star")
        for number in range(3)
    ]

    def curves(gain: float | None) -> list[dict]:
        pipe = with_vae("PixArtSigmaPipeline")
        if gain is not None:
            add_routing(pipe)
            find_routing(pipe).gain.data.fill_(gain)
        return [found.curves for found in measure(HostRun(pipe, 16, OPTIONS["PixArtSigmaPipeline"]), pictures)]

    for plain, fresh, trained in zip(curves(None), curves(0.0), curves(1.0), strict=True):
        assert (plain[COST] == fresh[COST]).all()
        assert (plain[INFORMATION] == fresh[INFORMATION]).all()
        assert (plain[COST] != trained[COST]).any()
