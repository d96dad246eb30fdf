"""Layers side by side in channels, as most systems with several layers do."""

from jaxtyping import Float
from torch import Tensor

from .chosen import ChosenLayers, Layers
from .contract import FUSIONS, FusionSizes, Moment, Prepared


@FUSIONS.register("concat")
class Concat(ChosenLayers):
    """context_n = [LN(H_n^(1)), …, LN(H_n^(K))], K chosen layers side by side.

    FLUX.2 does this with 3 layers, FLUX.3 with 8, Ideogram 4 with 13, LTX-2 with all 49 hidden states. The context
    embedder then normalizes and projects the wider input, as Ideogram 4 does. Varies with nothing. Has no parameters,
    but makes the context embedder's linear layer K times as wide.

    Args:
        sizes: what it is built for.
        layers: how many layers, or which, or "all"; see `choose_layers`.
    """

    def __init__(self, sizes: FusionSizes, layers: Layers = 3) -> None:
        super().__init__(sizes, layers)

    @classmethod
    def layers_read(cls, num_layers: int, num_blocks: int, layers: Layers = 3, **options: object) -> list[int]:
        """The chosen layers."""
        return super().layers_read(num_layers, num_blocks, layers)

    @property
    def out_channels(self) -> int:
        """K times the width of the hidden states."""
        return len(self.positions) * super().out_channels

    def forward(self, prepared: Prepared, moment: Moment) -> Float[Tensor, "1 batch text_tokens out_channels"]:
        """The same for all blocks."""
        return self.chosen(prepared).transpose(1, 2).flatten(2)[None]
