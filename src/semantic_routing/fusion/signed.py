"""Mixtures whose weights may be negative."""

from typing import ClassVar

import torch
from torch import nn

from .contract import FUSIONS, FusionSizes, Moment, Prepared
from .routed import Logits, RoutedFusion


@FUSIONS.register("signed")
class Signed(RoutedFusion):
    """context_d = γ_d Σ_l z_{d,l} · LN(H^(l)), without a softmax; z starts at 1 / L and γ at 1.

    ELMo (arXiv 1802.05365) scales its mixture by a γ; the mixture that Krea 2's layers end in has weights of both
    signs, which no convex mixture can express. Varies with the block. Costs what `depth-wise` costs and one parameter a
    block more.
    """

    varies_with = frozenset({"block"})
    layer_axes: ClassVar[dict[str, int]] = {"z": 1}
    convex = False

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.z = nn.Parameter(torch.full((sizes.num_blocks, sizes.num_layers), 1 / sizes.num_layers))
        self.gamma = nn.Parameter(torch.ones(sizes.num_blocks))

    def layer_weights(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """γ_d z_d, float32; they need not sum to 1."""
        return (self.gamma.float()[:, None] * self.z.float())[:, None, None]
