"""The mixture of normalized layers, H_cond = Σ_l α^(l) · LN(H^(l)) (paper, eq. 2).

`combine(weights, normalize(hidden_states))` defines it; `fuse` gives the same and never holds the normalized stack.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-5

# Bytes of the stack that are normalized and combined before the next: what a core's cache holds, or enough for a GPU
# to be busy with.
PIECE_BYTES = {"cpu": 2**21, "cuda": 2**25}


def normalize(
    hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
) -> Float[Tensor, "batch layers text_tokens text_channels"]:
    """Parameter-free LayerNorm of each layer's features over channels, in the dtype that comes in.

    Layers of a language model differ in scale by orders of magnitude; without this the largest would drown the rest.
    The kernel keeps its statistics in float32, so that no float32 copy of the stack is made.
    """
    with torch.autocast(hidden_states.device.type, enabled=False):
        return F.layer_norm(hidden_states, hidden_states.shape[-1:], eps=NORM_EPS)


def combine(
    weights: Float[Tensor, "blocks #batch #text_tokens layers"],
    normalized: Float[Tensor, "batch layers text_tokens text_channels"],
) -> Float[Tensor, "blocks batch text_tokens text_channels"]:
    """The weighted sum over layers of all blocks at once, as matrix products over the layer axis.

    Axes of length 1 of `weights` serve every row and every token.
    """
    batch, layers, text_tokens, text_channels = normalized.shape
    weights = weights.to(normalized.dtype)
    # The products accumulate in float32 inside the kernel; their operands keep the features' dtype.
    with torch.autocast(normalized.device.type, enabled=False):
        if weights.shape[2] > 1:  # a product a token
            fused = torch.matmul(weights.permute(1, 2, 0, 3), normalized.transpose(1, 2))
            return fused.permute(2, 0, 1, 3)
        fused = torch.matmul(weights[:, :, 0].transpose(0, 1), normalized.reshape(batch, layers, -1))
    return fused.view(batch, -1, text_tokens, text_channels).transpose(0, 1)


def fuse(
    weights: Float[Tensor, "blocks #batch 1 layers"],
    hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
) -> Float[Tensor, "blocks batch text_tokens text_channels"]:
    """`combine(weights, normalize(hidden_states))`, a few text tokens at a time.

    The normalized stack stays in the cache. The backward pass normalizes again and keeps nothing but the stack as it
    came.
    """
    if torch.is_grad_enabled() and (weights.requires_grad or hidden_states.requires_grad):
        pieces = [checkpoint(_fuse_piece, weights, piece, use_reentrant=False) for piece in _pieces(hidden_states)]
        return torch.cat(pieces, dim=2)
    fused = hidden_states.new_empty(len(weights), len(hidden_states), *hidden_states.shape[2:])
    start = 0
    for piece in _pieces(hidden_states):
        fused[:, :, start : start + piece.shape[2]] = _fuse_piece(weights, piece)
        start += piece.shape[2]
    return fused


def _fuse_piece(weights: Tensor, hidden_states: Tensor) -> Tensor:
    return combine(weights, normalize(hidden_states))


def _pieces(hidden_states: Tensor) -> Iterator[Tensor]:
    """Text tokens, so many at a time that their part of the stack has about `PIECE_BYTES`."""
    token_bytes = hidden_states.nbytes // max(hidden_states.shape[2], 1)
    limit = PIECE_BYTES.get(hidden_states.device.type, PIECE_BYTES["cuda"])
    step = max(limit // max(token_bytes, 1), 1)
    for start in range(0, hidden_states.shape[2], step):
        yield hidden_states[:, :, start : start + step]
