"""A fixed layer for each block."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .chosen import places
from .contract import FUSIONS, FusionSizes, Moment, Prepared
from .routed import Logits, RoutedFusion


@FUSIONS.register("layer-map")
class LayerMap(RoutedFusion):
    """context_d = LN(H^(l(d))): block d reads the layer at position l(d), which is fixed.

    FIBO gives its blocks SmolLM3's layers in order, HiDream-I1 a list of Llama's. By default l is spread evenly from
    the first layer to the last. Varies with the block. Has no parameters, and costs what `depth-wise` costs.

    Args:
        sizes: what it is built for.
        layers: l(d) of each block, counted from 0; None spreads evenly.

    Raises:
        ValueError: a layer is out of range, or there are not as many as blocks.
    """

    varies_with = frozenset({"block"})

    def __init__(self, sizes: FusionSizes, layers: Sequence[int] | None = None) -> None:
        super().__init__(sizes, layers=layers)
        self.layer_of_block = _layer_of_block(layers, sizes.num_layers, sizes.num_blocks, stacked=True)

    @classmethod
    def layers_read(
        cls, num_layers: int, num_blocks: int, layers: Sequence[int] | None = None, **options: object
    ) -> list[int]:
        """The layers that some block reads."""
        return sorted(set(_layer_of_block(layers, num_layers, num_blocks)))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """All weight on one layer."""
        chosen = torch.tensor(self.layer_of_block, device=moment.timestep.device)[:, None]
        number = torch.arange(self.sizes.num_layers, device=chosen.device)
        logits: Tensor = torch.zeros(len(chosen), len(number), device=chosen.device)
        return logits.masked_fill(number != chosen, -torch.inf)[:, None, None]

    def keep_layers(self, indices: Sequence[int]) -> "RoutedFusion":
        """Refuses: each layer is all that some block reads.

        Raises:
            ValueError: always.
        """
        raise ValueError("A layer map cannot drop layers: each is the only one that some block reads.")


def _layer_of_block(layers: Sequence[int] | None, num_layers: int, num_blocks: int, stacked: bool = False) -> list[int]:
    if layers is None:
        return [round(block * (num_layers - 1) / max(num_blocks - 1, 1)) for block in range(num_blocks)]
    if len(layers) != num_blocks:
        raise ValueError(f"A layer map names one layer for each block: {num_blocks} blocks need as many, not {layers}.")
    return places(layers, num_layers, stacked)
