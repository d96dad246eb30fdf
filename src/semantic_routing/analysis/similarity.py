"""How alike fusion weights are across blocks and across times (paper, fig. 3)."""

import numpy as np

from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import MATRIX, Drawing, heat_map, label_cells, panels
from .base import AXIS_LABELS, FINE_TIMES, Analysis, Subject, marginals, on_depth, on_time
from .statistics import similarity_matrix


class Similarity(Analysis):
    """Jensen-Shannon similarity of fusion weights."""

    name = "similarity"
    title = "Similarity of fusion weights across blocks and times"
    needs = "weights"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Models whose weights depend on something."""
        return on_time(strategy) or on_depth(strategy)

    def compute(self, subject: Subject) -> Arrays:
        """A matrix for blocks, for flow times, or for both: then of weights averaged over the other axis."""
        return {
            axis: NamedArray(
                similarity_matrix(weights.values), {axis: weights.axes[axis], f"other_{axis}": weights.axes[axis]}
            )
            for axis, weights in marginals(subject.weights(FINE_TIMES)).items()
        }

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """The least alike pair of each matrix."""
        texts = []
        for axis, array in arrays.items():
            first, second = np.unravel_index(array.values.argmin(), array.values.shape)
            pair = f"{array.axes[axis][first]} and {array.axes[axis][second]}"
            texts.append(f"Least alike by {AXIS_LABELS[axis]}: {pair}, with similarity {array.values.min():.3f}.")
        return texts

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """One panel a matrix, on one scale."""
        figure, axes = panels(1, len(arrays), 3.0, 2.7)
        low = min(float(array.values.min()) for array in arrays.values())
        # Equal rows leave no range of their own to color.
        low = min(low, 0.99)
        for place, (axis, array) in zip(axes, arrays.items(), strict=True):
            mesh = heat_map(place, array.values, low, 1.0, MATRIX)
            place.set_aspect("equal")
            for side in ("x", "y"):
                label_cells(place, side, array.axes[axis], 6)
            place.set_xlabel(AXIS_LABELS[axis])
            place.set_ylabel(AXIS_LABELS[axis])
        figure.colorbar(mesh, ax=axes, label="similarity (1 means equal)", shrink=0.85)
        caption = (
            "Similarity of fusion weights, 1 minus the Jensen-Shannon divergence to base 2: 1 means equal weights."
        )
        if len(arrays) == 2:
            caption += " Blocks are compared by their mean weights over time, times by their mean weights over blocks."
        return [Drawing("similarity", figure, caption)]
