"""How alike fusion weights are across blocks and across times (paper, fig. 3)."""

import numpy as np
from numpy.typing import NDArray

from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import DASHES, MATRIX, OKABE_ITO, Figure, heat_map, label_cells, panels
from .base import ANALYSES, AXIS_LABELS, Analysis
from .layer_weights import marginals
from .model import SavedModel
from .statistics import similarity_matrix

LOWEST = 0.5  # of the color scale; evenly read half of the layers against evenly read all of them is 0.69
NAMES = {"block": "blocks", "flow_time": "times"}


@ANALYSES.register("similarity")
class Similarity(Analysis):
    """Jensen-Shannon similarity of fusion weights."""

    title = "Similarity of fusion weights across blocks and times"
    needs = "layer weights that are not negative and vary with block or time"

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models whose weights depend on something."""
        return len(model.weight_axes) > 1

    def compute(self, model: SavedModel) -> Arrays:
        """A matrix for blocks, for flow times, or for both: then of weights averaged over the other axis."""
        return {
            axis: NamedArray(
                similarity_matrix(weights.values), {axis: weights.axes[axis], f"other_{axis}": weights.axes[axis]}
            )
            for axis, weights in marginals(model.distributions).items()
        }

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """The least alike pair of each matrix."""
        texts = []
        for axis, array in arrays.items():
            first, second = np.unravel_index(array.values.argmin(), array.values.shape)
            pair = f"{array.axes[axis][first]} and {array.axes[axis][second]}"
            texts.append(f"Least alike by {AXIS_LABELS[axis]}: {pair}, with similarity {array.values.min():.3f}.")
        return texts

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """A panel a matrix, on one scale that is the same for all models, and similarity over distance."""
        canvas, axes = panels(1, len(arrays) + 1, 2.8)
        for number, (place, (axis, array)) in enumerate(zip(axes, arrays.items(), strict=False)):
            cells = heat_map(place, array.values, LOWEST, 1.0, MATRIX)
            place.set_aspect("equal")
            for side in ("x", "y"):
                label_cells(place, side, array.axes[axis], 6)
            place.set(xlabel=AXIS_LABELS[axis], ylabel=AXIS_LABELS[axis])
            distance, mean = by_distance(array)
            axes[-1].plot(distance, mean, color=OKABE_ITO[number], linestyle=DASHES[number], label=NAMES[axis])
        least = min(float(array.values.min()) for array in arrays.values())
        extend = "min" if least < LOWEST else "neither"
        canvas.colorbar(
            cells, ax=axes[:-1], location="top", shrink=0.6, extend=extend, label="similarity (1 means equal)"
        )
        axes[-1].set(xlabel="distance (1: first and last)", ylabel="mean similarity", xlim=(0, 1))
        axes[-1].legend()
        caption = (
            "Similarity of fusion weights, 1 minus the Jensen-Shannon divergence to base 2: 1 means equal weights, 0 "
            f"that no layer is shared. The color scale starts at {LOWEST:g} for every model, so an even field means "
            "that all weights are nearly equal. Right: its mean over all pairs of one distance."
        )
        if len(arrays) == 2:
            caption += " Blocks are compared by their mean weights over time, times by their mean weights over blocks."
        return [Figure("similarity", canvas, caption)]


def by_distance(matrix: NamedArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean similarity of all pairs that lie equally far apart; the distance of first and last is 1."""
    count = len(matrix.values)
    return np.linspace(0, 1, count), np.array([np.diagonal(matrix.values, offset).mean() for offset in range(count)])
