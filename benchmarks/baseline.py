"""The reference's way: the network and weights of our model, with the text work that it can be spared.

Every forward pass normalizes all layers in float32, fuses them block by block, and makes context, keys and values anew,
on all padded positions; attention gets a dense float mask and a key/value head for each query head. The image side is
our own modules. Where the reference could be read as slower still, this is the faster reading: the stack is normalized
once a step and not once a block, into one float32 copy, and a block's fusion is one product without a weighted copy.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from semantic_routing.fusion import Moment
from semantic_routing.fusion.combine import NORM_EPS
from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.rotary import rotary_2d
from semantic_routing.text import TextEncoder, TextFeatures


class ReferenceWay(nn.Module):
    """Called as the transformer is, and gives what it gives.

    Args:
        transformer: whose weights, configuration and gradient checkpointing are used.
    """

    def __init__(self, transformer: SemanticRoutingTransformer2DModel) -> None:
        super().__init__()
        self.transformer: Any = transformer

    def forward(
        self,
        hidden_states: Float[Tensor, "batch channels height width"],
        timestep: Float[Tensor, " batch"],
        encoder_hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        encoder_attention_mask: Bool[Tensor, "batch text_tokens"],
    ) -> Transformer2DModelOutput:
        """Predicts the velocity, or the sample; each row has a real text token."""
        model, config = self.transformer, self.transformer.config
        patch = config.patch_size
        rows, columns = (side // patch for side in hidden_states.shape[-2:])
        x = model.patch_embed(hidden_states)
        signal = model.time_embedder(timestep, x.dtype)
        if signal.tokens is not None:
            x = x + signal.tokens
        rotary = None
        if "rope" in config.position_embedding:
            rotary = rotary_2d(rows, columns, config.attention_head_dim, config.rope_base, x.device)
        mask = dense_mask(encoder_attention_mask, x)
        contexts = self.contexts(encoder_hidden_states, timestep)
        for block, context in zip(model.blocks, contexts, strict=True):
            inputs = (block, x, context, mask, rotary, signal.blocks)
            if torch.is_grad_enabled() and model.gradient_checkpointing:
                x = checkpoint(run_block, *inputs, use_reentrant=False)
            else:
                x = run_block(*inputs)
        x = model.proj_out(model.modulation_out(signal.output)[0].modulate(model.norm_out(x)))
        sample = rearrange(x, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, w=columns, p=patch, q=patch)
        return Transformer2DModelOutput(sample=sample)

    def auxiliary_loss(self) -> None:
        """The paper's fusions add nothing to the loss."""

    def contexts(
        self, hidden_states: Float[Tensor, "batch layers text_tokens text_channels"], timestep: Float[Tensor, " batch"]
    ) -> list[Float[Tensor, "batch text_tokens text_channels"]]:
        """The context of each block; without depth dependence it is made once."""
        model = self.transformer
        with torch.autocast(hidden_states.device.type, enabled=False):
            normalized = torch.empty_like(hidden_states, dtype=torch.float32)
            for layer in range(hidden_states.shape[1]):  # one at a time: two float32 stacks would not be fair
                states = hidden_states[:, layer].float()
                normalized[:, layer] = F.layer_norm(states, states.shape[-1:], eps=NORM_EPS)
            fused = [
                torch.einsum("bl,blsc->bsc", weights[:, 0].expand(len(timestep), -1), normalized).to(
                    hidden_states.dtype
                )
                for weights in model.fusion.layer_weights(None, Moment(timestep))
            ]
        contexts = [model.context_embedder(block) for block in fused]
        return contexts if "block" in model.varies_with else contexts * len(model.blocks)


def run_block(
    block: Any,
    x: Float[Tensor, "batch tokens channels"],
    context: Float[Tensor, "batch text_tokens text_channels"],
    mask: Float[Tensor, "batch 1 tokens text_tokens"],
    rotary: Any,
    time_signal: Tensor | None,
) -> Float[Tensor, "batch tokens channels"]:
    """One `RoutedBlock`."""
    attention, mlp = block.modulation(time_signal)
    own, cross = block.self_attention, block.cross_attention
    branch = attend(*own.rotated(attention.modulate(block.norm_attention(x)), rotary))
    x = x + attention.gated(block.norm_attention_out(own.to_out(branch)))
    key, value = cross.key_value(context)
    branch = attend(cross.query(x), key, value, mask)
    x = x + block.norm_cross_out(cross.to_out(branch))
    branch = block.mlp(mlp.modulate(block.norm_mlp(x)))
    return x + mlp.gated(block.norm_mlp_out(branch))


def attend(
    query: Float[Tensor, "batch tokens heads head_channels"],
    key: Float[Tensor, "batch source_tokens key_value_heads head_channels"],
    value: Float[Tensor, "batch source_tokens key_value_heads head_channels"],
    mask: Float[Tensor, "batch 1 tokens source_tokens"] | None = None,
) -> Float[Tensor, "batch tokens channels"]:
    """Scaled dot products, with key/value heads repeated to the query heads."""
    repeats = query.shape[2] // key.shape[2]
    key, value = (heads.repeat_interleave(repeats, dim=2) for heads in (key, value))
    query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
    mask = None if mask is None else mask.to(query.dtype)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return output.transpose(1, 2).flatten(2)


def dense_mask(
    mask: Bool[Tensor, "batch text_tokens"], x: Float[Tensor, "batch tokens channels"]
) -> Float[Tensor, "batch 1 tokens text_tokens"]:
    """What is added to the scores: zero for real tokens, the dtype's most negative number for padding."""
    row = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, torch.finfo(x.dtype).min)
    return row[:, None, None].repeat(1, 1, x.shape[1], 1)


class PaddedTextEncoder(TextEncoder):
    """Pads every prompt to `max_length`; the language model reads the padding too."""

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> TextFeatures:
        """Encodes prompts, `max_length` positions each."""
        input_ids, mask = (tensor.to(self.model.device) for tensor in self.tokenize(prompts))
        missing = (0, self.max_length - mask.shape[1])
        input_ids, mask = F.pad(input_ids, missing), F.pad(mask, missing)
        return TextFeatures(self.read(input_ids, mask), mask)
