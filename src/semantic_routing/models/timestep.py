"""How the timestep conditions the blocks: `none`, `addition`, `adaln-zero` or `adaln-single`.

Whatever is chosen here, the timestep may also reach the blocks through the router.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..fusion.gate import sinusoidal_embedding
from ..io.registry import Registry

TIMESTEP_CONDITIONINGS: "Registry[type[NoConditioning]]" = Registry("timestep conditioning")

EMBEDDING_CHANNELS = 256
INITIALIZER_STD = 0.02

BLOCK_PARTS = 6  # shift, scale and gate of self-attention, then of the MLP
OUTPUT_PARTS = 2  # shift and scale


class Modulation(NamedTuple):
    """Shift, scale and gate of one branch, each `batch 1 channels`; None where the timestep does not reach it."""

    shift: Tensor | None = None
    scale: Tensor | None = None
    gate: Tensor | None = None

    def modulate(self, x: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Applied to a branch's normalized input."""
        return x if self.scale is None or self.shift is None else x * (1 + self.scale) + self.shift

    def gated(self, x: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Applied to a branch's output."""
        return x if self.gate is None else x * self.gate


class TimeSignal(NamedTuple):
    """What a conditioning sends to the image tokens, to every block, and to the output."""

    tokens: Tensor | None = None
    blocks: Tensor | None = None
    output: Tensor | None = None


class Unmodulated(nn.Module):
    """A place that the timestep does not reach."""

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()

    def forward(self, signal: Tensor | None) -> list[Modulation]:
        """Identities for both branches."""
        return [Modulation(), Modulation()]


class LinearModulation(nn.Module):
    """A linear layer of the signal, zero at initialization: identity with closed gates."""

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(channels, parts * channels)

    def reset_parameters(self) -> None:
        """Zeros."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, signal: Float[Tensor, "batch channels"]) -> list[Modulation]:
        """One modulation a branch."""
        return split_modulation(self.linear(signal), self.parts)


class TableModulation(nn.Module):
    """A learned table added to a signal that all blocks share."""

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.scale_shift_table = nn.Parameter(torch.empty(parts * channels))

    def reset_parameters(self) -> None:
        """Normal with variance 1 / channels."""
        nn.init.normal_(self.scale_shift_table, std=(self.parts / self.scale_shift_table.numel()) ** 0.5)

    def forward(self, signal: Float[Tensor, "batch all_parts"]) -> list[Modulation]:
        """One modulation a branch."""
        return split_modulation(self.scale_shift_table + signal, self.parts)


def split_modulation(values: Float[Tensor, "batch all_parts"], parts: int) -> list[Modulation]:
    """Cuts a vector into modulations of three parts, or fewer for a branch without gate."""
    chunks = values[:, None].chunk(parts, dim=-1)
    return [Modulation(*chunks[start : start + 3]) for start in range(0, parts, 3)]


@TIMESTEP_CONDITIONINGS.register("none")
class NoConditioning(nn.Module):
    """Blocks do not see the timestep (every preset of the paper; its noise level can be read off the latent)."""

    modulation: type[nn.Module] = Unmodulated

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, timestep: Float[Tensor, " batch"], dtype: torch.dtype) -> TimeSignal:
        """Nothing."""
        return TimeSignal()


@TIMESTEP_CONDITIONINGS.register("addition")
class Addition(NoConditioning):
    """The timestep's embedding is added once to all image tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.linear_1 = nn.Linear(EMBEDDING_CHANNELS, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def reset_parameters(self) -> None:
        """Small normal weights."""
        for linear in (module for module in self.children() if isinstance(module, nn.Linear)):
            nn.init.normal_(linear.weight, std=INITIALIZER_STD)
            nn.init.zeros_(linear.bias)

    def embed(self, timestep: Float[Tensor, " batch"], dtype: torch.dtype) -> Float[Tensor, "batch channels"]:
        """MLP of sines and cosines of the timestep in [0, 1000]; these are float32 until cast to `dtype`."""
        embedding = sinusoidal_embedding(timestep, EMBEDDING_CHANNELS).to(dtype)
        return self.linear_2(F.silu(self.linear_1(embedding)))

    def forward(self, timestep: Float[Tensor, " batch"], dtype: torch.dtype) -> TimeSignal:
        """To the tokens alone."""
        return TimeSignal(tokens=self.embed(timestep, dtype)[:, None])


@TIMESTEP_CONDITIONINGS.register("adaln-zero")
class AdaLNZero(Addition):
    """Each block turns the embedding into its own shifts, scales and gates (DiT)."""

    modulation = LinearModulation

    def forward(self, timestep: Float[Tensor, " batch"], dtype: torch.dtype) -> TimeSignal:
        """The same signal for blocks and output."""
        signal = F.silu(self.embed(timestep, dtype))
        return TimeSignal(blocks=signal, output=signal)


@TIMESTEP_CONDITIONINGS.register("adaln-single")
class AdaLNSingle(Addition):
    """One projection for all blocks, to which each adds a table (PixArt)."""

    modulation = TableModulation

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.linear = nn.Linear(channels, BLOCK_PARTS * channels)

    def forward(self, timestep: Float[Tensor, " batch"], dtype: torch.dtype) -> TimeSignal:
        """The projection for the blocks, the embedding itself for both parts of the output."""
        embedding = self.embed(timestep, dtype)
        return TimeSignal(blocks=self.linear(F.silu(embedding)), output=embedding.repeat(1, OUTPUT_PARTS))
