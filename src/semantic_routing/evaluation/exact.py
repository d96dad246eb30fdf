"""The exact posterior mean where all pictures of a caption are known: what no denoiser can beat."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..scenes import render
from ..scenes.pictures import Weighted
from .captioned import as_pixels
from .information import Denoise, Denoiser, Latents


class Candidates(NamedTuple):
    """All pictures of a caption, flat, and the logarithms of their probabilities."""

    pictures: Float[Tensor, "pictures values"]
    log_probabilities: Float[Tensor, " pictures"]

    def posterior_mean(self, noisy: Float[Tensor, "rows values"], sigma: float) -> Float[Tensor, "rows values"]:
        """E[x | x_σ]: the mean of the pictures, weighted by how likely each makes the noisy one."""
        scale = (1 - sigma) / sigma**2
        fit = noisy @ self.pictures.T - (1 - sigma) / 2 * self.pictures.square().sum(1)
        return torch.softmax(self.log_probabilities + scale * fit, dim=1) @ self.pictures


def candidates(pictures: Sequence[Weighted], size: int, dtype: torch.dtype = torch.float64) -> Candidates:
    """Scenes drawn at `size` pixels a side, in [-1, 1]."""
    drawn = torch.stack([as_pixels(render(scene, size)) for scene, _ in pictures])
    weights = torch.tensor([probability for _, probability in pictures], dtype=dtype)
    return Candidates(drawn.flatten(1).to(dtype), weights.log())


def exact_denoiser(of_caption: Callable[[str], Candidates]) -> Denoiser:
    """The exact prediction for each caption."""

    def denoiser(captions: Sequence[str]) -> Denoise:
        rows = {caption: [row for row, each in enumerate(captions) if each == caption] for caption in captions}

        def denoise(noisy: Latents, sigma: float) -> Latents:
            flat = noisy.flatten(1).double()
            means = torch.empty_like(flat)
            for caption, among in rows.items():
                known = of_caption(caption)
                means[among] = known.posterior_mean(flat[among].to(known.pictures.dtype), sigma).double()
            return means.view_as(noisy)

        return denoise

    return denoiser
