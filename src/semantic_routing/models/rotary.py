"""2D rotary position embedding of image tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rotary = tuple[Float[Tensor, "image_tokens head_channels"], Float[Tensor, "image_tokens head_channels"]]


def rotary_2d(
    rows: int, columns: int, head_channels: int, base: float, device: torch.device, offset: float = 0.0
) -> Rotary:
    """Cosines and sines, float32, for tokens in raster order.

    Channel j is paired with channel j + head_channels / 2. The first half of the pairs turns by the token's row, the
    second by its column, both counted in patches from `offset`, with frequencies base^(-4i / head_channels).
    """
    frequencies = _frequencies(head_channels, base, device)
    row = torch.arange(rows, dtype=torch.float32, device=device) + offset
    column = torch.arange(columns, dtype=torch.float32, device=device) + offset
    angles = torch.cat(
        [
            (row[:, None] * frequencies)[:, None].expand(-1, columns, -1),
            (column[:, None] * frequencies)[None].expand(rows, -1, -1),
        ],
        dim=-1,
    ).flatten(0, 1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotary_shift(positions: Int[Tensor, " batch"], head_channels: int, base: float) -> Rotary:
    """Cosines and sines, float32, that move by as many rows and columns as each entry says."""
    angles = positions.float()[:, None] * _frequencies(head_channels, base, positions.device)
    angles = angles.repeat(1, 4)
    return angles.cos(), angles.sin()


def _frequencies(head_channels: int, base: float, device: torch.device) -> Float[Tensor, " quarter"]:
    quarter = head_channels // 4
    return base ** (-torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
