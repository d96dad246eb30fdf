"""What a caption tells a model about a picture, in nats, from nothing but its denoising errors.

Noise turns a picture x into x_γ = √γ · x + ε at signal-to-noise ratio γ = ((1 − σ) / σ)². A model predicts the picture
from it, x̂. The squared errors of ideal predictions, integrated over γ, are log-likelihoods (arXiv 2302.03792, eq. 9;
2310.07972, eq. 4), so that for any model, over a band of noise,

    cost(x, c)       = ½ ∫ ‖x − x̂(x_γ, c)‖² dγ                            what c leaves to be found out
    information(x; c) = cost(x, no caption) − cost(x, c)                    what c tells
    heard(c → c′)    = cost(x, c′) − cost(x, c)                           what tells the true caption from a false one

All captions see the same noise, and so do all models: it is a function of the seed, the example and the grid's point.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..flow import velocity
from ..fusion.contract import NUM_TRAIN_TIMESTEPS
from ..io.files import sha256

if TYPE_CHECKING:
    from ..pipelines import SemanticRoutingPipeline

VERSION = 1
"""Changes with the grid and the bands."""
LOG_SNR = tuple(float(point) for point in range(-8, 1))
"""Log γ of the grid. Below −8 nothing is known. Above 0 next to nothing is left to know, and what a network's own error
adds, times γ, swamps it: exact values in `exact.py` decided on the ends."""
BANDS = ((-8.0, -5.0), (-5.0, -3.0), (-3.0, -1.0), (-1.0, 0.0))
"""Ends of the bands of noise, each a point of the grid; together they are the whole."""
HEARD_BAND = (-8.0, -3.0)
"""Where `heard` is summed up. A false caption is impossible, and without noise an ideal model would put no bound to its
cost: above −3 networks agree less and less with exact values."""
NO_CAPTION = ""

Latents = Float[Tensor, "rows channels height width"]
Denoise = Callable[[Latents, float], Latents]
"""Predicts samples from noisy latents x_σ at one σ, a row a caption."""
Denoiser = Callable[[Sequence[str]], Denoise]
"""Reads captions, once for all noise levels."""


class Subject(NamedTuple):
    """A picture's latent, the captions that it is denoised with, and the name that its noise follows from."""

    name: str
    latent: Float[Tensor, "channels height width"]
    captions: Sequence[str]


def sigma_of(log_snr: float) -> float:
    """σ where ((1 − σ) / σ)² is the signal-to-noise ratio."""
    return 1 / (1 + float(np.exp(log_snr / 2)))


def nats_per_log_snr(
    errors: Float[np.ndarray, "*rows points"], log_snr: Sequence[float] = LOG_SNR
) -> Float[np.ndarray, "*rows points"]:
    """½ γ · error, the integrand over log γ."""
    return errors * np.exp(log_snr) / 2


def integrate(
    curves: Float[np.ndarray, "*rows points"],
    log_snr: Sequence[float] = LOG_SNR,
    band: tuple[float, float] | None = None,
) -> Float[np.ndarray, "*rows"]:
    """Nats of a band, of curves over log γ, by the trapezoidal rule; None is the whole grid."""
    points = np.asarray(log_snr)
    inside = slice(None) if band is None else (points >= band[0]) & (points <= band[1])
    return np.asarray(np.trapezoid(curves[..., inside], points[inside], axis=-1))


def generator_of(seed: int, name: str, purpose: str) -> torch.Generator:
    """The generator for one purpose of an example, the same for every model."""
    return torch.Generator().manual_seed(int(sha256(f"{seed} {name} {purpose}")[:15], 16))


def gaussian(seed: int, name: str, log_snr: float, shape: Sequence[int]) -> Tensor:
    """The noise of an example at a point of the grid, the same for every model and caption."""
    return torch.randn(*shape, generator=generator_of(seed, name, f"{log_snr:g}"))


@torch.inference_mode()
def squared_errors(
    denoiser: Denoiser, subjects: Sequence[Subject], seed: int = 0, log_snr: Sequence[float] = LOG_SNR
) -> Float[np.ndarray, "rows points"]:
    """‖x − x̂‖² for each caption of each subject, in their order, at each point of the grid.

    Args:
        denoiser: a model, or the exact posterior mean.
        subjects: a batch of them; all captions of all subjects are denoised together.
        seed: of the noise.
        log_snr: the grid.
    """
    denoise = denoiser([caption for subject in subjects for caption in subject.captions])
    repeats = torch.tensor([len(subject.captions) for subject in subjects])
    clean = torch.stack([subject.latent for subject in subjects]).double()
    errors = []
    for point in log_snr:
        sigma = sigma_of(point)
        noise = torch.stack([gaussian(seed, subject.name, point, subject.latent.shape) for subject in subjects])
        noisy = ((1 - sigma) * clean + sigma * noise).float().repeat_interleave(repeats, dim=0)
        difference = denoise(noisy, sigma).double() - clean.repeat_interleave(repeats, dim=0)
        errors.append(difference.square().flatten(1).sum(1))
    return torch.stack(errors, dim=1).numpy()


def pipeline_denoiser(pipeline: "SemanticRoutingPipeline") -> Denoiser:
    """The prediction of a pipeline's transformer, of pixels or latents, as velocity or as sample.

    The fusion sees the timestep itself, as in training, even where the pipeline has a timestep map for sampling.
    """
    transformer = pipeline.transformer
    device, dtype = transformer.device, transformer.dtype

    def denoiser(captions: Sequence[str]) -> Denoise:
        distinct = list(dict.fromkeys(captions))
        rows = torch.tensor([distinct.index(caption) for caption in captions], device=device)
        prepared = transformer.prepare_text(*pipeline.prompt_encoder(distinct).to(device, dtype), reused=True)

        def denoise(noisy: Latents, sigma: float) -> Latents:
            timestep = torch.full((len(noisy),), sigma * NUM_TRAIN_TIMESTEPS, device=device)
            context = transformer.text_context(prepared, timestep[:1], cache=True).rows(rows)
            on_device = noisy.to(device)
            output = transformer(on_device.to(dtype), timestep, text_context=context).sample
            flow = velocity(output, on_device, timestep, transformer.config.prediction)
            return (on_device - sigma * flow).cpu()

        return denoise

    return denoiser
