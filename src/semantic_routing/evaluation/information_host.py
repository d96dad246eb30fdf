"""The denoising errors of a host: what `information` asks of a model of another project."""

from collections.abc import Sequence

import torch

from ..adapters.run import HostRun
from ..training.noising import FlowNoising, make_noising
from .information import Denoise, Denoiser, Latents


def host_denoiser(run: HostRun) -> Denoiser:
    """The prediction of a host's model, by what its scheduler says that it predicts, and how it adds noise.

    Where a host's noise ends before the grid's, it is asked at its last timestep, as in the first step of sampling.

    Raises:
        ValueError: the scheduler is of no known kind.
    """
    noising, device = make_noising(run.pipe.scheduler, None), run.model.device
    sign = run.velocity_sign if isinstance(noising, FlowNoising) else 1

    def denoiser(captions: Sequence[str]) -> Denoise:
        call = run.call(captions)

        def denoise(noisy: Latents, sigma: float) -> Latents:
            timestep, size = noising.level(sigma)
            rows = size * run.packed(noisy.to(device), call)
            output = run.predict(call, rows, torch.full((len(rows),), timestep, device=device), run.model)
            return run.unpacked(noising.clean(rows, sign * output.float(), sigma)).cpu()

        return denoise

    return denoiser
