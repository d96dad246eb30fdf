"""The normalised convex combination, H_cond = Σ_l α^(l) · LN(H^(l)) (paper, eq. 2)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NORM_EPS = 1e-5


def normalise(
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
    normalised: Float[Tensor, "batch layers text_tokens text_channels"],
) -> Float[Tensor, "blocks batch text_tokens text_channels"]:
    """The weighted sum over layers of all blocks at once: one matrix product over the layer axis.

    `weights` may have a batch of 1, which then serves every row.
    """
    batch, layers, text_tokens, text_channels = normalised.shape
    # The product accumulates in float32 inside the kernel; its operands keep the features' dtype.
    with torch.autocast(normalised.device.type, enabled=False):
        fused = torch.matmul(weights.transpose(0, 1).to(normalised.dtype), normalised.reshape(batch, layers, -1))
    return fused.view(batch, -1, text_tokens, text_channels).transpose(0, 1)
