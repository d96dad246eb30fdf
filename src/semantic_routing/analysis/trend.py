"""How deep into the language model the router reads: semantic center and dispersion (paper, fig. 8, eq. 14 to 17)."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import OKABE_ITO, Drawing, panels
from .base import AXIS_LABELS, FINE_TIMES, Analysis, Subject, marginals, on_depth, on_time
from .statistics import center, dispersion, layer_positions


class Trend(Analysis):
    """Mean and variance of the depth that is read, by block and by time."""

    name = "trend"
    title = "Semantic center and dispersion"
    needs = "weights"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Models whose weights depend on something."""
        return on_time(strategy) or on_depth(strategy)

    def compute(self, subject: Subject) -> Arrays:
        """`center_by_AXIS` and `dispersion_by_AXIS` for block, flow_time, or both marginals."""
        positions = layer_positions(subject.layers)
        arrays: Arrays = {}
        for axis, weights in marginals(subject.weights(FINE_TIMES)).items():
            axes = {axis: weights.axes[axis]}
            arrays[f"center_by_{axis}"] = NamedArray(center(weights.values, positions), axes)
            arrays[f"dispersion_by_{axis}"] = NamedArray(dispersion(weights.values, positions), axes)
        return arrays

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """Where the center starts and ends."""
        texts = []
        for axis in _axes(arrays):
            values = arrays[f"center_by_{axis}"].values
            along = AXIS_LABELS[axis]
            texts.append(
                f"Along {along} the center goes from {values[0]:.3f} to {values[-1]:.3f} "
                f"(least {values.min():.3f}, most {values.max():.3f}); uniform weights have 0.5."
            )
        return texts

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """One panel an axis: the center with a band of one standard deviation."""
        figure, axes = panels(1, len(_axes(arrays)), 3.2, 2.4, sharey=True)
        for place, axis in zip(axes, _axes(arrays), strict=True):
            middle, spread = arrays[f"center_by_{axis}"], np.sqrt(arrays[f"dispersion_by_{axis}"].values)
            x = middle.numbers(axis)
            place.fill_between(
                x,
                middle.values - spread,
                middle.values + spread,
                color=OKABE_ITO[5],
                alpha=0.35,
                linewidth=0,
                label="±1 standard deviation",
            )
            place.plot(x, middle.values, color=OKABE_ITO[0], marker="o", markersize=3, label="semantic center")
            place.axhline(0.5, color="0.5", linewidth=0.7, linestyle=":")
            place.set_ylim(0, 1)
            place.set_xlabel(AXIS_LABELS[axis])
            if axis == "block":
                place.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel("depth (0 shallowest, 1 deepest)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=2, loc="outside upper center")
        caption = (
            "Semantic center of the fusion weights, the mean depth of the layers read on a scale from 0 (shallowest) "
            "to 1 (deepest), with ±1 standard deviation, the root of the semantic dispersion. Dotted: the center of "
            "uniform weights."
        )
        if len(axes) == 2:
            caption += " Each panel averages the weights over what the other one shows."
        return [Drawing("trend", figure, caption)]


def _axes(arrays: Arrays) -> list[str]:
    return [name.removeprefix("center_by_") for name in arrays if name.startswith("center_by_")]
