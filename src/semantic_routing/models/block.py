"""The paper's DiT block."""

import torch.nn.functional as F
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from jaxtyping import Float
from torch import Tensor, nn

from .attention import CrossAttention, KeyValue, RMSNorm, SelfAttention
from .rotary import Rotary
from .timestep import BLOCK_PARTS
from .tokens import TextTokens


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(channels, hidden_channels, bias=False)
        self.up_proj = nn.Linear(channels, hidden_channels, bias=False)
        self.down_proj = nn.Linear(hidden_channels, channels, bias=False)

    def forward(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Acts on the last axis."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RoutedBlock(nn.Module):
    """Self-attention, cross-attention to the block's own context, gated MLP, each added to the residual stream.

    Cross-attention reads the residual stream as it is, without a norm before and without modulation; its queries have
    a norm of their own.

    Args:
        channels: width of the residual stream.
        text_channels: width of the context that is read.
        num_heads: query heads.
        num_key_value_heads: divides `num_heads`.
        head_channels: width of a head.
        mlp_ratio: inner width of the MLP over `channels`.
        modulation: one of the modulations of `timestep.py`.
        sandwich_norm: also normalize each branch's output.
        norm_eps: of all norms.
    """

    def __init__(
        self,
        channels: int,
        text_channels: int,
        num_heads: int,
        num_key_value_heads: int,
        head_channels: int,
        mlp_ratio: float,
        modulation: type[nn.Module],
        sandwich_norm: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        heads = (num_heads, num_key_value_heads, head_channels, norm_eps)
        self.modulation = modulation(channels, BLOCK_PARTS)
        self.norm_attention = RMSNorm(channels, norm_eps)
        self.self_attention = SelfAttention(channels, channels, *heads)
        self.cross_attention = CrossAttention(channels, text_channels, *heads)
        self.norm_mlp = RMSNorm(channels, norm_eps)
        self.mlp = GatedMLP(channels, int(mlp_ratio * channels))
        self.norm_attention_out, self.norm_cross_out, self.norm_mlp_out = (
            RMSNorm(channels, norm_eps) if sandwich_norm else nn.Identity() for _ in range(3)
        )

    def key_value(
        self, context: Float[Tensor, "roles heads real_tokens text_channels"], tokens: TextTokens
    ) -> KeyValue:
        """Keys and values of the block's context, for `forward` to use in every step."""
        return self.cross_attention.text_key_value(context, tokens)

    def state(
        self, hidden_states: Float[Tensor, "batch tokens channels"], time_signal: Tensor | None
    ) -> Float[Tensor, "batch channels"]:
        """The mean of the block's normalized and modulated image tokens, for fusions that read the image."""
        attention, _ = self.modulation(time_signal)
        return attention.modulate(self.norm_attention(hidden_states)).mean(dim=1)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch tokens channels"],
        text: Float[Tensor, "roles heads real_tokens text_channels"] | KeyValue,
        tokens: TextTokens,
        rotary: Rotary | None,
        time_signal: Tensor | None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """`text` is the context without padding, or its keys and values where they were made once for all steps."""
        x = hidden_states
        attention, mlp = self.modulation(time_signal)
        branch = self.self_attention(attention.modulate(self.norm_attention(x)), rotary)
        x = x + attention.gated(self.norm_attention_out(branch))
        x = x + self.norm_cross_out(self.cross_attention(x, text, tokens))
        branch = self.mlp(mlp.modulate(self.norm_mlp(x)))
        return x + mlp.gated(self.norm_mlp_out(branch))


# What diffusers' step caches need to know of a block.
TransformerBlockRegistry.register(RoutedBlock, TransformerBlockMetadata(return_hidden_states_index=0))
