"""Groups of layers, one for all blocks and a fixed one for each."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .chosen import places
from .combine import fuse
from .contract import FUSIONS, FusionSizes, Moment, Prepared, TextFusion

Grouping = int | Sequence[Sequence[int]]


@FUSIONS.register("bundles")
class Bundles(TextFusion):
    """context_d = b(0) + g_d · b(d), where b puts the normalized layers of a bundle side by side, and g starts at 0.

    FIBO 2 reads bundles of 3 layers so: one through a Perceiver for all blocks, five by cross-attention with gates that
    start at zero. Here both are read by the same cross-attention. Varies with the block. Costs one parameter a block
    and a context embedder that is wider by the size of a bundle.

    Args:
        sizes: what it is built for.
        bundles: positions of layers, counted from 0: the bundle that all blocks read, then those that blocks read in
            turn, the first blocks the first. A number is their size: bundles then interleave, as FIBO 2's do, and the
            middle one is for all blocks. Of 36 layers in bundles of 3 the first is the layers 0, 12 and 24.

    Raises:
        ValueError: bundles differ in size, there are fewer than two, or a layer is out of range.
    """

    varies_with = frozenset({"block"})

    def __init__(self, sizes: FusionSizes, bundles: Grouping = 3) -> None:
        super().__init__(sizes)
        shared, *others = _bundles(bundles, sizes.num_layers, stacked=True)
        self.shared = shared
        self.of_block = [others[block * len(others) // sizes.num_blocks] for block in range(sizes.num_blocks)]
        self.gate = nn.Parameter(torch.zeros(sizes.num_blocks))

    @classmethod
    def layers_read(cls, num_layers: int, num_blocks: int, bundles: Grouping = 3, **options: object) -> list[int]:
        """The layers of all bundles that some block reads."""
        shared, *others = _bundles(bundles, num_layers)
        return sorted({layer for bundle in (shared, *others) for layer in bundle})

    @property
    def out_channels(self) -> int:
        """The width of the hidden states times the size of a bundle."""
        return len(self.shared) * super().out_channels

    def forward(self, prepared: Prepared, moment: Moment) -> Float[Tensor, "blocks batch text_tokens out_channels"]:
        """The contexts of all blocks, each place in the bundles mixed by itself."""
        shared, of_block = (torch.tensor(layers, device=self.gate.device) for layers in (self.shared, self.of_block))
        count = self.sizes.num_layers
        weights = F.one_hot(shared, count) + self.gate.float()[:, None, None] * F.one_hot(of_block, count)
        if prepared.gains is not None:
            weights = weights * prepared.gains
        mixed = fuse(weights.flatten(0, 1)[:, None, None], prepared.features)
        return mixed.view(*weights.shape[:2], *mixed.shape[1:]).movedim(1, -2).flatten(-2)


def _bundles(bundles: Grouping, num_layers: int, stacked: bool = False) -> list[list[int]]:
    """Positions by bundle, first the one for all blocks."""
    if isinstance(bundles, int):
        if not 1 <= bundles <= num_layers:
            raise ValueError(f"Of {num_layers} layers bundles can have 1 to {num_layers}, not {bundles}.")
        stride = num_layers // bundles
        first = num_layers - bundles * stride  # the shallowest layers are left over
        made = [list(range(first + number, num_layers, stride)) for number in range(stride)]
        return [made[stride // 2], *made]
    sizes = {len(bundle) for bundle in bundles}
    if len(bundles) < 2 or len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"Bundles must be two or more of equal size, not of sizes {[len(b) for b in bundles]}.")
    flat = places([layer for bundle in bundles for layer in bundle], num_layers, stacked)
    size = sizes.pop()
    return [flat[start : start + size] for start in range(0, len(flat), size)]
