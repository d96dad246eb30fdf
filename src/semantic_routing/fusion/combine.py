"""The normalized convex combination, H_cond = Σ_l α^(l) · LN(H^(l)) (paper, eq. 2).

`combine(weights, normalize(hidden_states))` defines it; `fuse` gives the same and never holds the normalized stack.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    weights: Float[Tensor, "blocks #batch layers"],
    normalized: Float[Tensor, "batch layers text_tokens text_channels"],
) -> Float[Tensor, "blocks batch text_tokens text_channels"]:
    """The weighted sum over layers of all blocks at once: one matrix product over the layer axis.

    `weights` may have a batch of 1, which then serves every row.
    """
    batch, layers, text_tokens, text_channels = normalized.shape
    # The product accumulates in float32 inside the kernel; its operands keep the features' dtype.
    with torch.autocast(normalized.device.type, enabled=False):
        fused = torch.matmul(weights.transpose(0, 1).to(normalized.dtype), normalized.reshape(batch, layers, -1))
    return fused.view(batch, -1, text_tokens, text_channels).transpose(0, 1)


def fuse(
    weights: Float[Tensor, "blocks #batch layers"],
    hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
) -> Float[Tensor, "blocks batch text_tokens text_channels"]:
    """`combine(weights, normalize(hidden_states))`, a few text tokens at a time.

    The stack is read once and the result written once; all else stays in the cache. The backward pass normalizes again
    and keeps nothing but the stack as it came.
    """
    fused: Tensor = _Fuse.apply(weights, hidden_states)  # type: ignore[no-untyped-call]
    return fused


class _Fuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, hidden_states: Tensor) -> Tensor:
        ctx.save_for_backward(weights, hidden_states)
        fused = hidden_states.new_empty(
            len(weights), len(hidden_states), hidden_states.shape[2], hidden_states.shape[3]
        )
        for piece in _pieces(hidden_states):
            fused[:, :, piece] = combine(weights, normalize(hidden_states[:, :, piece]))
        return fused

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weights, hidden_states = ctx.saved_tensors
        of_weights = torch.zeros_like(weights) if ctx.needs_input_grad[0] else None
        of_stack = torch.empty_like(hidden_states) if ctx.needs_input_grad[1] else None
        for piece in _pieces(hidden_states):
            with torch.enable_grad():
                inputs = weights.detach(), hidden_states[:, :, piece].detach()
                wanted = [x.requires_grad_() for x, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed]
                fused = combine(inputs[0], normalize(inputs[1]))
            found = list(torch.autograd.grad(fused, wanted, gradient[:, :, piece]))
            if of_stack is not None:
                of_stack[:, :, piece] = found.pop()
            if of_weights is not None:
                of_weights += found.pop()
        return of_weights, of_stack


def _pieces(hidden_states: Tensor) -> Iterator[slice]:
    """Text tokens, so many at a time that their part of the stack has about `PIECE_BYTES`."""
    text_tokens = hidden_states.shape[2]
    token_bytes = hidden_states.nbytes // max(text_tokens, 1)
    step = max(PIECE_BYTES.get(hidden_states.device.type, PIECE_BYTES["cuda"]) // max(token_bytes, 1), 1)
    for start in range(0, text_tokens, step):
        yield slice(start, start + step)
