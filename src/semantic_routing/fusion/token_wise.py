"""A mixture for each token, by what the token is."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .contract import FUSIONS, FusionSizes, Moment, Prepared
from .routed import Logits, RoutedFusion, check_rank


@FUSIONS.register("token-wise")
class TokenWise(RoutedFusion):
    """z_{d,n,l} = β_{d,l} + q_d · W LN(H_n^(l)), with W of `rank` x text_channels and q zero at the start.

    Words may want other layers than numbers or relations do. Contains `depth-wise`, where q = 0. Attention residuals
    (arXiv 2603.15031) weigh the depth of a language model by its content in this way. Varies with block and token, not
    with time, so that it is computed once a prompt. Costs rank · text_channels parameters more than `depth-wise`, and
    once a prompt 2 · rank · text_channels FLOPs for each token and layer.

    Args:
        sizes: what it is built for.
        rank: rows of W.

    Raises:
        ValueError: the rank is out of range.
    """

    varies_with = frozenset({"block", "token"})
    layer_axes: ClassVar[dict[str, int]] = {"beta": 1}

    def __init__(self, sizes: FusionSizes, rank: int = 16) -> None:
        super().__init__(sizes, rank=rank)
        check_rank(rank)
        self.beta = nn.Parameter(torch.zeros(sizes.num_blocks, sizes.num_layers))
        self.query = nn.Parameter(torch.zeros(sizes.num_blocks, rank))
        self.projection = nn.Parameter(torch.randn(rank, self.out_channels) * self.out_channels**-0.5)

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """`blocks batch text_tokens layers`."""
        if prepared is None:
            raise ValueError("token-wise weights depend on the prompt: pass prepared.")
        # In the features' precision: no float32 copy of the stack is made.
        keys = F.linear(prepared.features, self.projection.to(prepared.features.dtype)).float()
        return self.beta[:, None, None] + torch.einsum("dr,blnr->dbnl", self.query.float(), keys)
