"""How deep into the language model a fusion reads: semantic center and dispersion (paper, app. C.2 and fig. 8)."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import OKABE_ITO, Figure, panels
from .base import ANALYSES, AXIS_LABELS, Analysis
from .layer_weights import marginals
from .model import SavedModel
from .statistics import center, dispersion, layer_positions


@ANALYSES.register("trend")
class Trend(Analysis):
    """Mean and variance of the depth that is read, by block and by time."""

    title = "Semantic center and dispersion"
    needs = "layer weights that are not negative and vary with block or time"

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models whose weights depend on something."""
        return len(model.weight_axes) > 1

    def compute(self, model: SavedModel) -> Arrays:
        """`center_by_AXIS` and `dispersion_by_AXIS` for block, flow_time, or both marginals."""
        positions = layer_positions(model.layers)
        arrays: Arrays = {}
        for axis, weights in marginals(model.distributions).items():
            axes = {axis: weights.axes[axis]}
            arrays[f"center_by_{axis}"] = NamedArray(center(weights.values, positions), axes)
            arrays[f"dispersion_by_{axis}"] = NamedArray(dispersion(weights.values, positions), axes)
        return arrays

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """Where the center starts and ends."""
        texts = []
        for axis in _axes(arrays):
            values = arrays[f"center_by_{axis}"].values
            texts.append(
                f"Along {AXIS_LABELS[axis]} the center goes from {values[0]:.3f} to {values[-1]:.3f} "
                f"(least {values.min():.3f}, most {values.max():.3f}); uniform weights have 0.5."
            )
        return texts

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """A column an axis: the center with a band of one standard deviation, and the dispersion below it."""
        names = _axes(arrays)
        canvas, axes = panels(2, len(names), 1.9, sharex="col", sharey="row", height_ratios=[3, 2])
        uniform = np.full(len(model.layers), 1 / len(model.layers))
        positions = layer_positions(model.layers)
        for above, below, axis in zip(axes, axes[len(names) :], names, strict=False):
            middle, variance = arrays[f"center_by_{axis}"], arrays[f"dispersion_by_{axis}"].values
            x, low, high = middle.numbers(axis), middle.values - np.sqrt(variance), middle.values + np.sqrt(variance)
            above.fill_between(x, low, high, color=OKABE_ITO[5], alpha=0.35, linewidth=0, label="± 1 σ")
            above.plot(x, middle.values, color=OKABE_ITO[0], marker="o", markersize=3, label="semantic center μ")
            below.plot(x, variance, color=OKABE_ITO[1], marker="o", markersize=3, label="semantic dispersion σ²")
            for place, value in ((above, center), (below, dispersion)):
                place.axhline(float(value(uniform, positions)), color="0.5", linewidth=0.7, linestyle=":")
            above.set_ylim(0, 1)
            below.set_ylim(bottom=0)
            below.set_xlabel(AXIS_LABELS[axis])
            if axis == "block":
                below.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel("depth (0 shallowest,\n1 deepest)")
        axes[len(names)].set_ylabel("variance of depth")
        handles = [handle for row in (0, len(names)) for handle in axes[row].get_legend_handles_labels()[0]]
        canvas.legend(handles=handles, ncols=3, loc="outside upper center")
        caption = (
            "Semantic center μ of the fusion weights (eq. 16), the mean depth of the layers read, with a band of one "
            "standard deviation σ to each side; below it the semantic dispersion σ² (eq. 17). Dotted: uniform weights."
        )
        if len(names) == 2:
            caption += " Each column averages the weights over the other column's axis."
        return [Figure("trend", canvas, caption)]


def _axes(arrays: Arrays) -> list[str]:
    return [name.removeprefix("center_by_") for name in arrays if name.startswith("center_by_")]
