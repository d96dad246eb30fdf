"""Fusion strategies: each turns a timestep into logits over language-model layers (paper, section 3.2, table 1).

A new strategy is one subclass and one line in `STRATEGIES`.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .gate import Gate


class FusionStrategy(nn.Module):
    """Logits z over layers; the router takes their softmax.

    Args:
        num_layers: language-model layers to choose from.
        num_blocks: blocks of the diffusion model.
    """

    depends_on_time: ClassVar[bool] = False
    depends_on_depth: ClassVar[bool] = False

    def __init__(self, num_layers: int, num_blocks: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.num_blocks = num_blocks

    @classmethod
    def layers_read(cls, num_layers: int) -> list[int]:
        """Which of `num_layers` layers can get any weight: the others need not be computed."""
        return list(range(num_layers))

    def forward(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        """Logits at noise level `sigma`; without depth dependence `blocks` is 1, without time dependence `batch` is."""
        raise NotImplementedError


class Penultimate(FusionStrategy):
    """B1: the layer before the last, nothing fused. Given a single layer, that one."""

    def __init__(self, num_layers: int, num_blocks: int) -> None:
        super().__init__(num_layers, num_blocks)
        logits = torch.full((1, 1, num_layers), -torch.inf)
        logits[..., self.layers_read(num_layers)] = 0.0
        self.register_buffer("logits", logits, persistent=False)

    @classmethod
    def layers_read(cls, num_layers: int) -> list[int]:
        """The one layer before the last."""
        return [max(num_layers - 2, 0)]

    def forward(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        """All weight on one layer."""
        return self.get_buffer("logits")


class Uniform(FusionStrategy):
    """B2: the plain mean over layers."""

    def forward(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        """z = 0."""
        return torch.zeros(1, 1, self.num_layers, device=sigma.device)


class Static(FusionStrategy):
    """B3: one learned vector β for all blocks and times."""

    def __init__(self, num_layers: int, num_blocks: int) -> None:
        super().__init__(num_layers, num_blocks)
        self.logits = nn.Parameter(torch.zeros(num_layers))

    def forward(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        """z = β."""
        return self.logits[None, None]


class TimeWise(FusionStrategy):
    """S1: one gate g for all blocks."""

    depends_on_time = True

    def __init__(self, num_layers: int, num_blocks: int) -> None:
        super().__init__(num_layers, num_blocks)
        self.gate = Gate(num_layers)

    def forward(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        """z_t = g(φ(t))."""
        return self.gate(sigma)


class DepthWise(FusionStrategy):
    """S2: a learned vector β_d for each block."""

    depends_on_depth = True

    def __init__(self, num_layers: int, num_blocks: int) -> None:
        super().__init__(num_layers, num_blocks)
        self.logits = nn.Parameter(torch.zeros(num_blocks, num_layers))

    def forward(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        """z_d = β_d."""
        return self.logits[:, None]


class Joint(FusionStrategy):
    """S3: a gate g_d for each block."""

    depends_on_time = True
    depends_on_depth = True

    def __init__(self, num_layers: int, num_blocks: int) -> None:
        super().__init__(num_layers, num_blocks)
        self.gate = Gate(num_layers, num_blocks)

    def forward(self, sigma: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        """z_{t,d} = g_d(φ(t))."""
        return self.gate(sigma)


STRATEGIES: dict[str, type[FusionStrategy]] = {
    "penultimate": Penultimate,
    "uniform": Uniform,
    "static": Static,
    "time-wise": TimeWise,
    "depth-wise": DepthWise,
    "joint": Joint,
}
