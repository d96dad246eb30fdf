"""One mixture for keys and another for values."""

from typing import ClassVar

import torch
from torch import nn

from .contract import FUSIONS, FusionSizes, Moment, Prepared
from .routed import Logits, RoutedFusion


@FUSIONS.register("key-value")
class KeyValueWise(RoutedFusion):
    """z_{d,key} = β_{d,0} and z_{d,value} = β_{d,1}: where to look need not be what to take.

    New here. Contains `depth-wise`, where both agree. Varies with block and role. Costs twice the parameters of
    `depth-wise`, and twice the work of fusion and context embedder, once a prompt.
    """

    varies_with = frozenset({"block", "role"})
    layer_axes: ClassVar[dict[str, int]] = {"beta": 2}

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.beta = nn.Parameter(torch.zeros(sizes.num_blocks, self.readers.roles, sizes.num_layers))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """`(blocks roles) 1 1 layers`."""
        return self.beta.flatten(0, 1)[:, None, None]
