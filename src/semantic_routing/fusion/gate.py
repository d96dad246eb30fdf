"""The time-conditioned fusion gate (TCFG, paper appendix A): a timestep in, logits over layers out."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

TIME_CHANNELS = 128  # D_t of the paper; the hidden layer is four times as wide
MOST_TIME_CHANNELS = 4096


def sinusoidal_embedding(position: Float[Tensor, " batch"], channels: int) -> Float[Tensor, "batch channels"]:
    """Embeds scalars as cosines, then sines, of frequencies 10000^(-2i / channels), in float32.

    The paper interleaves them and the reference concatenates; a linear layer follows, so only checkpoints can tell.
    """
    half = channels // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=position.device) * (-math.log(1e4) / half))
    angles = position.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Gate(nn.Module):
    """`num_gates` independent gates φ(sigma) → Linear → SiLU → Linear, evaluated together.

    The last linear layer is zero at initialization, so that the logits start equal whatever the time.

    Args:
        num_layers: language-model layers, the length of each logit vector.
        num_gates: 1 for a gate that all blocks share, or one a block.
        time_channels: width of φ.

    Raises:
        ValueError: the width is not even, or out of range.
    """

    def __init__(self, num_layers: int, num_gates: int = 1, time_channels: int = TIME_CHANNELS) -> None:
        super().__init__()
        if time_channels % 2 or not 2 <= time_channels <= MOST_TIME_CHANNELS:
            raise ValueError(f"time_channels must be even and 2 to {MOST_TIME_CHANNELS}, not {time_channels}.")
        hidden_channels = 4 * time_channels
        self.time_channels = time_channels
        self.weight_in = nn.Parameter(torch.empty(num_gates, hidden_channels, time_channels))
        self.bias_in = nn.Parameter(torch.empty(num_gates, hidden_channels))
        self.weight_out = nn.Parameter(torch.empty(num_gates, num_layers, hidden_channels))
        self.bias_out = nn.Parameter(torch.empty(num_gates, num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform first layer, zero biases, zero last layer."""
        for weight in self.weight_in:
            nn.init.xavier_uniform_(weight)
        for parameter in (self.bias_in, self.weight_out, self.bias_out):
            nn.init.zeros_(parameter)

    def forward(
        self, sigma: Float[Tensor, " batch"], gates: slice = slice(None)
    ) -> Float[Tensor, "gates batch layers"]:
        """Logits of all gates, or of some, at noise level `sigma` in [0, 1], where 1 is noise (as in the reference)."""
        weight_in, bias_in, weight_out, bias_out = (
            parameter[gates].float() for parameter in (self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        )
        # float32 whatever the model's precision: in bfloat16 neighboring times would fall on one embedding.
        with torch.autocast(sigma.device.type, enabled=False):
            embedding = sinusoidal_embedding(sigma, self.time_channels)
            hidden = torch.einsum("ght,bt->gbh", weight_in, embedding) + bias_in[:, None]
            return torch.einsum("glh,gbh->gbl", weight_out, F.silu(hidden)) + bias_out[:, None]
