"""Attention over the layers of each token."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .chosen import ChosenLayers, Layers
from .contract import FUSIONS, FusionSizes, Moment, Prepared

HEAD_CHANNELS = 64


@FUSIONS.register("layer-attention")
class LayerAttention(ChosenLayers):
    """context = refine(Σ_l w_l · attend(LN(H_n^(1)), …, LN(H_n^(K)))_l), w signed.

    For each token, transformer layers attend over its K layers (`batch x text_tokens, K, text_channels`); learned
    signed weights mix them to one; then transformer layers attend over the tokens of a prompt. Krea 2 does this with
    K = 12; UniFusion (arXiv 2510.12789) pools layers by attention too. Residual branches start at zero and w at 1 / K,
    so that the start is the mean over layers.

    Varies with the token. Costs about 12 · text_channels² parameters a transformer layer, and once a prompt
    24 · K · text_channels² FLOPs a token and layer-wise transformer layer: the most of all fusions.

    Args:
        sizes: what it is built for.
        layers: how many layers, or which, or "all"; see `choose_layers`.
        depth: transformer layers over the layers of a token.
        refiners: transformer layers over tokens.
        attention_heads: heads of their attention; None makes heads of 64 channels, or one head if that leaves a rest.
        mlp_ratio: inner width of their MLPs over `text_channels`.

    Raises:
        ValueError: the heads do not divide the channels, or there is less than no layer or no inner width.
    """

    varies_with = frozenset({"token"})

    def __init__(
        self,
        sizes: FusionSizes,
        layers: Layers = "all",
        depth: int = 2,
        refiners: int = 2,
        attention_heads: int | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__(sizes, layers)
        channels = self.out_channels
        heads = attention_heads
        if heads is None:
            heads = 1 if channels % HEAD_CHANNELS else channels // HEAD_CHANNELS
        if heads < 1 or channels % heads:
            raise ValueError(f"{heads} heads cannot share {channels} channels; attention_heads must divide them.")
        if min(depth, refiners) < 0 or mlp_ratio * channels < 1:
            raise ValueError(
                f"depth {depth} and refiners {refiners} must be 0 or more, mlp_ratio {mlp_ratio:g} more than 0."
            )
        inner = int(mlp_ratio * channels)
        self.across_layers = nn.ModuleList(_transformer_layer(channels, heads, inner) for _ in range(depth))
        self.mix = nn.Parameter(torch.full((len(self.positions),), 1 / len(self.positions)))
        self.across_tokens = nn.ModuleList(_transformer_layer(channels, heads, inner) for _ in range(refiners))

    def forward(self, prepared: Prepared, moment: Moment) -> Float[Tensor, "1 batch text_tokens text_channels"]:
        """The same for all blocks."""
        features, mask = self.chosen(prepared).transpose(1, 2), prepared.mask
        # The weights stay in float32, as a fusion's do; products take the features' precision.
        with torch.autocast(features.device.type, features.dtype, enabled=features.dtype != torch.float32):
            stacks = features.flatten(0, 1) if mask is None else features[mask]
            for layer in self.across_layers:
                stacks = layer(stacks)
            mixed = torch.matmul(self.mix.to(stacks.dtype), stacks)
            if mask is None:
                tokens = mixed.view(features.shape[0], features.shape[1], -1)
            else:
                tokens = mixed.new_zeros(*mask.shape, mixed.shape[-1]).index_put((mask,), mixed)
            for layer in self.across_tokens:
                tokens = layer(tokens, src_key_padding_mask=None if mask is None else ~mask)
        return tokens.to(features.dtype)[None]


def _transformer_layer(channels: int, heads: int, inner: int) -> nn.TransformerEncoderLayer:
    """Norms first, no dropout, and branches that add nothing yet."""
    layer = nn.TransformerEncoderLayer(
        channels, heads, inner, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    for parameter in (layer.self_attn.out_proj.weight, layer.linear2.weight, layer.linear2.bias):
        nn.init.zeros_(parameter)
    return layer
