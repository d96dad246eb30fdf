"""Choosing layers by their positions among those that a fusion is given.

A fusion sees its layers twice: all that the text encoder could give, when it is asked which it reads, and those alone,
when it is built into a transformer. So a fusion that is built for exactly as many layers as it reads takes them all.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ..io.messages import brief
from .combine import normalize
from .contract import FusionSizes, Prepared, TextFusion

Layers = int | str | Sequence[int]


def choose_layers(layers: Layers, num_layers: int, stacked: bool = False) -> list[int]:
    """Positions of chosen layers.

    Args:
        layers: "all"; their positions, counted from 0; or how many, spread so that they cut the model into equal parts:
            of 36 layers, 3 are the 9th, 18th and 27th.
        num_layers: how many there are to choose from.
        stacked: whether these may be the chosen layers alone, see `places`.

    Raises:
        ValueError: a position is out of range, or more layers are asked for than there are.
    """
    if layers == "all":
        return list(range(num_layers))
    if isinstance(layers, str) or layers == []:
        raise ValueError(f"layers must be a number of layers, a list of positions or 'all', not {brief(layers)}.")
    if not isinstance(layers, int):
        return places(layers, num_layers, stacked)
    if not 1 <= layers <= num_layers:
        raise ValueError(f"Of {num_layers} layers a fusion can read 1 to {num_layers}, not {layers}.")
    if layers == num_layers:
        return list(range(num_layers))
    return [max(round(number * num_layers / (layers + 1)), 1) - 1 for number in range(1, layers + 1)]


def places(positions: Sequence[int], num_layers: int, stacked: bool = False) -> list[int]:
    """Where layers are in a stack of `num_layers`.

    Args:
        positions: of the layers, among all that the text encoder could give.
        num_layers: how many the stack holds.
        stacked: whether the stack may hold the named layers alone; it does if it has as many.

    Raises:
        ValueError: a position is out of range.
    """
    wrong = [position for position in positions if type(position) is not int or position < 0]
    read = sorted(set(positions) - set(wrong))
    if stacked and len(read) == num_layers and not wrong:
        return [read.index(position) for position in positions]
    wrong += [position for position in read if position >= num_layers]
    if wrong:
        raise ValueError(f"There is no layer {wrong[0]!r}: the {num_layers} layers are counted from 0.")
    return list(positions)


class ChosenLayers(TextFusion):
    """A fusion that reads some of the layers, each normalized by itself.

    Args:
        sizes: what it is built for.
        layers: which layers; see `choose_layers`.
    """

    def __init__(self, sizes: FusionSizes, layers: Layers) -> None:
        super().__init__(sizes)
        self.positions = choose_layers(layers, sizes.num_layers, stacked=True)

    @classmethod
    def layers_read(cls, num_layers: int, num_blocks: int, layers: Layers = "all", **options: object) -> list[int]:
        """The chosen layers."""
        return sorted(set(choose_layers(layers, num_layers)))

    def chosen(self, prepared: Prepared) -> Float[Tensor, "batch chosen text_tokens text_channels"]:
        """Normalized features of the chosen layers, scaled by their gains."""
        everything = self.positions == list(range(self.sizes.num_layers))
        features = normalize(prepared.features if everything else prepared.features[:, self.positions])
        if prepared.gains is None:
            return features
        return features * prepared.gains[0, self.positions, None, None].to(features.dtype)
