"""Runs of the pipeline whose latents are kept at every step."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ..fusion import LayerGains
from ..fusion.timestep_map import GateTime

if TYPE_CHECKING:
    from ..pipelines import SemanticRoutingPipeline

Latents = Float[Tensor, "images channels height width"]
States = Float[Tensor, "times images channels height width"]
Pictures = UInt8[np.ndarray, "images picture_height picture_width 3"]


class Trajectory(NamedTuple):
    """Latents from the starting noise to the final ones, and the flow time of each."""

    flow_times: NDArray[np.float64]
    states: States


def gaussian(count: int, shape: Sequence[int], seed: int) -> Latents:
    """Unit Gaussian noise; row i depends on seed + i alone."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)])


def starting_noise(pipeline: "SemanticRoutingPipeline", count: int, seed: int) -> Latents:
    """Noise of the pipeline's own image size."""
    config = pipeline.transformer.config
    return gaussian(count, (config.in_channels, config.sample_size, config.sample_size), seed)


def sample_latents(
    pipeline: "SemanticRoutingPipeline",
    prompts: Sequence[str],
    noise: Latents,
    steps: int,
    guidance: float,
    timestep_map: GateTime | None = None,
    layer_gains: LayerGains | None = None,
    batch_size: int = 16,
    on_step: Callable[[Latents], None] | None = None,
) -> Latents:
    """Final latents of one image a prompt from rows of `noise`, float32 on the CPU.

    Args:
        pipeline: samples.
        prompts: one an image.
        noise: the starting latents.
        steps: Euler steps.
        guidance: classifier-free guidance scale.
        timestep_map: the time that the fusion sees; None is the sampler's own time, even where the pipeline has a map.
        layer_gains: factors of layers, see `fusion.LayerGains`.
        batch_size: images at a time.
        on_step: called with the latents of a batch after each step.
    """
    pipeline.set_progress_bar_config(disable=True)

    def callback(_: object, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step is not None:
            on_step(tensors["latents"].float().cpu())
        return {}

    ends = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        made = pipeline(
            list(prompts[rows]),
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise[rows],
            timestep_map=timestep_map or identity,
            layer_gains=layer_gains,
            output_type="latent",
            callback_on_step_end=callback,
            return_dict=False,
        )[0]
        ends.append(made.float().cpu())
    return torch.cat(ends)


def sample_trajectory(
    pipeline: "SemanticRoutingPipeline",
    prompts: Sequence[str],
    noise: Latents,
    steps: int,
    guidance: float,
    batch_size: int = 16,
) -> Trajectory:
    """Samples, and keeps what the sampler went through."""
    states: list[Latents] = []
    sample_latents(pipeline, prompts, noise, steps, guidance, batch_size=batch_size, on_step=states.append)
    batches = [torch.stack(states[start : start + steps]) for start in range(0, len(states), steps)]
    flow_times = 1 - pipeline.scheduler.sigmas.double().cpu().numpy()
    return Trajectory(flow_times, torch.cat([noise[None], torch.cat(batches, dim=1)]))


def identity(timestep: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The fusion sees the timestep itself, even where the pipeline has a map of its own."""
    return timestep


def decode(pipeline: "SemanticRoutingPipeline", latents: Latents) -> Pictures:
    """Pictures of final latents."""
    device = pipeline.transformer.device
    images = pipeline.codec.decode(latents.to(device)).float()
    values: NDArray[np.float32] = pipeline.image_processor.postprocess(images, output_type="np")
    return (values * 255).round().astype(np.uint8)
