"""The moving average of the weights that are trained, shared out over processes as they are."""

from collections.abc import Iterable
from typing import Literal

from diffusers.training_utils import EMAModel
from torch import nn


class WeightAverage(EMAModel):
    """The average of `diffusers`, beside the weights or in the CPU's memory.

    Args:
        parameters: that are averaged.
        decay: of the average, after its first steps.
        device: "cpu" takes memory from no accelerator, and costs a copy of the weights each step; None is where the
            weights are.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float, device: Literal["cpu"] | None = None) -> None:
        super().__init__(parameters, decay=decay)
        self.device = device
        if device is not None:
            self.to(device)

    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Takes in the weights of a step."""
        if self.device is None:
            super().step(parameters)
        else:  # `diffusers` averages what requires gradients, and copies the rest
            super().step(parameter.detach().to(self.device).requires_grad_() for parameter in parameters)
