"""Attention with grouped key/value heads and per-head RMS norms on queries and keys."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .rotary import Rotary
from .tokens import TextTokens

Heads = Float[Tensor, "batch tokens heads head_channels"]
SourceHeads = Float[Tensor, "batch source_tokens key_value_heads head_channels"]


class RMSNorm(nn.RMSNorm):
    """RMS norm whose statistics are float32 inside the kernel and whose output keeps the input's dtype."""

    def forward(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Normalizes the last axis."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(x.dtype)


class KeyValue(NamedTuple):
    """Keys, normalized, and values of the text for one block."""

    key: SourceHeads
    value: SourceHeads


class AttentionProcessor:
    """Scaled dot products through `diffusers`' dispatcher, which knows every backend."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(self, query: Heads, key: SourceHeads, value: SourceHeads, mask: Tensor | None = None) -> Heads:
        """Attends; key and value may have fewer heads, each serving as many consecutive query heads."""
        output: Tensor = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            enable_gqa=key.shape[2] != query.shape[2],
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return output


class Attention(nn.Module, AttentionModuleMixin):
    """Projections and norms that self- and cross-attention share.

    Args:
        channels: of the image tokens.
        source_channels: of what is attended to.
        num_heads: query heads.
        num_key_value_heads: divides `num_heads`.
        head_channels: width of a head; heads x head_channels need not equal `channels`.
        norm_eps: of the RMS norms.
    """

    _default_processor_cls = AttentionProcessor
    _available_processors = (AttentionProcessor,)
    _supports_qkv_fusion = False
    processor: AttentionProcessor

    def __init__(
        self,
        channels: int,
        source_channels: int,
        num_heads: int,
        num_key_value_heads: int,
        head_channels: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.to_q = nn.Linear(channels, num_heads * head_channels, bias=False)
        self.to_k = nn.Linear(source_channels, num_key_value_heads * head_channels, bias=False)
        self.to_v = nn.Linear(source_channels, num_key_value_heads * head_channels, bias=False)
        self.norm_q = RMSNorm(head_channels, norm_eps)
        self.norm_k = RMSNorm(head_channels, norm_eps)
        self.to_out = nn.Linear(num_heads * head_channels, channels, bias=False)
        self.processor = AttentionProcessor()

    def query(self, x: Float[Tensor, "batch tokens channels"]) -> Heads:
        """Normalized queries."""
        return self.norm_q(self._split_heads(self.to_q(x)))

    def key_value(self, source: Float[Tensor, "batch tokens source_channels"]) -> KeyValue:
        """Normalized keys, and values."""
        return KeyValue(self.norm_k(self._split_heads(self.to_k(source))), self._split_heads(self.to_v(source)))

    def _split_heads(self, x: Tensor) -> Heads:
        return rearrange(x, "b n (h c) -> b n h c", c=self.head_channels)


class SelfAttention(Attention):
    """Image tokens attend to image tokens."""

    def forward(self, x: Float[Tensor, "batch tokens channels"], rotary: Rotary | None) -> Tensor:
        """`batch tokens channels` in and out."""
        return self.to_out(self.processor(*self.rotated(x, rotary)).flatten(2))

    def rotated(
        self, x: Float[Tensor, "batch tokens channels"], rotary: Rotary | None
    ) -> tuple[Heads, SourceHeads, SourceHeads]:
        """Queries and keys, normalized and rotated, and values."""
        query, (key, value) = self.query(x), self.key_value(x)
        if rotary is not None:
            query, key = (apply_rotary_emb(t, rotary, use_real_unbind_dim=-2, sequence_dim=1) for t in (query, key))
        return query, key, value


class JointAttention(SelfAttention):
    """Image tokens attend to keys and values of the text, then to their own, under one softmax."""

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "batch tokens channels"],
        rotary: Rotary | None,
        text: KeyValue,
        mask: Bool[Tensor, "batch 1 1 text_tokens"] | None,
    ) -> Tensor:
        """`batch tokens channels` in and out; `mask` is of the text, all image tokens are read."""
        query, *own = self.rotated(x, rotary)
        key, value = (torch.cat(pair, dim=1) for pair in zip(text, own, strict=True))
        if mask is not None:
            mask = F.pad(mask, (0, x.shape[1]), value=True)
        return self.to_out(self.processor(query, key, value, mask).flatten(2))


class CrossAttention(Attention):
    """Image tokens attend to text. Neither has a position here."""

    def forward(
        self,
        x: Float[Tensor, "batch tokens channels"],
        text: Float[Tensor, "roles heads real_tokens source_channels"] | KeyValue,
        tokens: TextTokens,
    ) -> Tensor:
        """`batch tokens channels` in and out; `text` is the block's context, or its keys and values made before."""
        key, value = text if isinstance(text, KeyValue) else self.text_key_value(text, tokens)
        return self.to_out(self.processor(self.query(x), key, value, tokens.mask).flatten(2))

    def text_key_value(
        self, context: Float[Tensor, "roles heads real_tokens source_channels"], tokens: TextTokens
    ) -> KeyValue:
        """Keys and values of real tokens, padded for attention.

        Keys are made of the first role's context and values of the last's, which are one where there is one. Where each
        key/value head reads a context of its own, all heads are made of all contexts and each head keeps its own, so
        that whatever adapts the projections counts.
        """
        key, value = (
            self._own_heads(self._split_heads(project(source)))
            for project, source in ((self.to_k, context[0]), (self.to_v, context[-1]))
        )
        key, value = tokens.pad(self.norm_k(key)), tokens.pad(value)
        if tokens.blank is not None:  # equal scores, so that attention is even
            key = key.masked_fill(tokens.blank[:, None, None, None], 0)
        return KeyValue(key, value)

    def _own_heads(
        self, heads: Float[Tensor, "readers real_tokens heads head_channels"]
    ) -> Float[Tensor, "real_tokens heads head_channels"]:
        """Of each head what was made of its own context."""
        return heads[0] if len(heads) == 1 else heads.diagonal(dim1=0, dim2=2).transpose(1, 2)
