"""What sampling asks of a scheduler of `diffusers`."""

import inspect
from collections.abc import Callable, Sequence

import torch
from diffusers import SchedulerMixin


def check_scheduler(scheduler: SchedulerMixin) -> None:
    """Refuses a scheduler that does not follow a flow's velocity.

    Raises:
        ValueError: it would take the velocity for noise; the message says what to set.
    """
    if not follows_flow(scheduler):
        raise ValueError(
            f"{type(scheduler).__name__} does not follow a flow: expected a FlowMatch scheduler, or one with "
            "prediction_type='flow_prediction' and use_flow_sigmas=True."
        )


def follows_flow(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler takes a model's output for a flow's velocity."""
    config = scheduler.config
    if type(scheduler).__name__.startswith("FlowMatch"):
        return True
    return config.get("prediction_type") == "flow_prediction" and bool(config.get("use_flow_sigmas"))


def accepts(function: Callable[..., object], name: str) -> bool:
    """Whether a function has an argument of that name."""
    return name in inspect.signature(function).parameters


def set_steps(scheduler: SchedulerMixin, steps: int, sigmas: Sequence[float] | None, device: torch.device) -> None:
    """Sets the timesteps of a scheduler: `steps` of its own, or at noise levels `sigmas`.

    Raises:
        ValueError: it does not take noise levels.
    """
    if sigmas is None:
        scheduler.set_timesteps(steps, device=device)
    elif accepts(scheduler.set_timesteps, "sigmas"):
        scheduler.set_timesteps(sigmas=list(sigmas), device=device)
    else:
        raise ValueError(f"{type(scheduler).__name__} takes no sigmas; give num_inference_steps.")
