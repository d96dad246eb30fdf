"""A mixture for each key/value head."""

from typing import ClassVar

import torch
from torch import nn

from .contract import FUSIONS, FusionSizes, Moment, Prepared
from .routed import Logits, RoutedFusion


@FUSIONS.register("head-wise")
class HeadWise(RoutedFusion):
    """z_{d,g} = β_{d,g}: each of the G key/value heads of each block reads a mixture of its own.

    New here. Contains `depth-wise`, where the heads of a block agree. Varies with block and head. Costs G times the
    parameters of `depth-wise`; its contexts (`blocks x heads, batch, text_tokens, text_channels`), the context
    embedder's work and that of text keys and values are G times as much, once a prompt.

    Args:
        sizes: what it is built for, with `num_heads`.

    Raises:
        ValueError: the number of heads is not known.
    """

    varies_with = frozenset({"block", "head"})
    layer_axes: ClassVar[dict[str, int]] = {"beta": 2}

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.beta = nn.Parameter(torch.zeros(sizes.num_blocks, self.readers.heads, sizes.num_layers))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """`(blocks heads) 1 1 layers`."""
        return self.beta.flatten(0, 1)[:, None, None]
