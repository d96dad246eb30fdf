"""How a host's own pipeline calls its model for prompts, so that training can call it in the same way.

The pipeline is run up to the first call of the model and no further. Text with its templates and masks, sizes,
positions and whatever else the model takes then come as they will in sampling, without a second copy of that logic.
"""

import inspect
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from .attach import host_model
from .hooks import Argument, Call
from .hosts import TIMES, Host, config_of


class _ModelIsCalledError(Exception):
    """Carries the arguments out of the pipeline."""

    def __init__(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        super().__init__()
        self.call: Call = (args, kwargs)


class HostCall(NamedTuple):
    """Arguments of a model for a batch of prompts.

    Args:
        call: what the pipeline gives it, at some time and with some noise.
        image: its argument for the noisy latents.
        time: its argument for the time.
    """

    call: Call
    image: Argument
    time: Argument

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the latents that the model takes."""
        return tuple(self.image.get(*self.call).shape)

    def at(self, latents: Tensor, time: Tensor) -> Call:
        """The same for these latents at this time, which is the host's own, see `own_time`."""
        call = self.image.put(*self.call, latents)
        return self.time.put(*call, time)


def host_call(pipe: DiffusionPipeline, prompts: list[str], height: int, width: int, **options: object) -> HostCall:
    """Runs a pipeline up to the first call of its model, without guidance.

    Args:
        pipe: of a host, routed or not.
        prompts: one an image.
        height: of the images, in pixels.
        width: of the images, in pixels.
        options: more arguments of the pipeline's call.
    """
    run: Any = pipe
    model, taken = host_model(pipe), inspect.signature(type(pipe).__call__).parameters
    own = {"guidance_scale": 1.0, "use_resolution_binning": False, "output_type": "latent"}
    # What the pipeline draws is not used. It has a generator of its own, so that others are left alone.
    own |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    own = {name: value for name, value in own.items() if name in taken} | options

    def leave(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        raise _ModelIsCalledError(args, kwargs)

    # Before the routing's own hooks: the text is still together with its layers.
    hook = model.register_forward_pre_hook(leave, prepend=True, with_kwargs=True)
    try:
        run(prompt=prompts, height=height, width=width, **own)
    except _ModelIsCalledError as called:
        first = next(name for name in inspect.signature(type(model).forward).parameters if name != "self")
        return HostCall(called.call, Argument.of(model, first), Argument.of(model, "timestep"))
    finally:
        hook.remove()
    raise ValueError(f"{type(pipe).__name__} does not call its {type(model).__name__}.")


def own_time(host: Host, model: nn.Module, timestep: Tensor) -> Tensor:
    """What a host is called with at a timestep in [0, 1000]: the inverse of its row in `TIMES`, which is linear."""
    start, end = _ends(host, model)
    return (timestep - start) / (end - start)


def runs_backward(host: Host, model: nn.Module) -> bool:
    """Whether the host's time rises towards data, so that its velocity is data minus noise."""
    start, end = _ends(host, model)
    return end < start


def _ends(host: Host, model: nn.Module) -> tuple[float, float]:
    start, end = (float(TIMES[host.time](torch.tensor(time), config_of(model))) for time in (0.0, 1.0))
    return start, end
