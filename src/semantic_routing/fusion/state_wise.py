"""A mixture for each block, by what the image is."""

from typing import ClassVar

import torch
from torch import nn

from .contract import FUSIONS, FusionSizes, Moment, Prepared
from .routed import Logits, RoutedFusion, check_rank


@FUSIONS.register("state-wise")
class StateWise(RoutedFusion):
    """z_{d,l} = β_{d,l} + k_l · Q_d s_d, with s_d the block's state, Q_d of `rank` x state_channels, k zero at first.

    The state is the mean of the block's normalized and modulated image tokens, so that routing follows what the image
    is and not what the clock says: what section 5.2 of the paper leaves open. DAR (arXiv 2605.20708) routes the depth
    of an image model adaptively. Contains `depth-wise`, where k = 0. Varies with block and state, so that each block's
    context, keys and values are made anew in each step. Costs rank · (blocks · state_channels + layers) parameters more
    than `depth-wise`.

    Args:
        sizes: what it is built for, with `state_channels`.
        rank: rows of Q_d.

    Raises:
        ValueError: the width of the state is not known, or the rank is out of range.
    """

    varies_with = frozenset({"block", "state"})
    layer_axes: ClassVar[dict[str, int]] = {"beta": 1, "keys": 0}

    def __init__(self, sizes: FusionSizes, rank: int = 16) -> None:
        super().__init__(sizes, rank=rank)
        channels = self.state_channels
        check_rank(rank)
        self.beta = nn.Parameter(torch.zeros(sizes.num_blocks, sizes.num_layers))
        self.keys = nn.Parameter(torch.zeros(sizes.num_layers, rank))
        self.query = nn.Parameter(torch.randn(sizes.num_blocks, rank, channels) * channels**-0.5)

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """Of `moment.block`: `1 batch 1 layers`."""
        state, block = self.state_of(moment)
        # float32, as all weights: the pooled state moves little from step to step.
        with torch.autocast(state.device.type, enabled=False):
            query = state @ self.query[block].float().T
            return (self.beta[block] + query @ self.keys.float().T)[None, :, None]
