"""How smoothly the fusion weights move over time (paper, app. C.2 and fig. 9)."""

import numpy as np

from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import OKABE_ITO, Figure, panels, sequence_bar, sequence_colors
from .base import ANALYSES, FLOW_TIME, Analysis
from .layer_weights import marginals
from .model import SavedModel
from .statistics import layer_positions, normalized, wasserstein


@ANALYSES.register("drift")
class Drift(Analysis):
    """1-Wasserstein distance between fusion weights at consecutive times."""

    title = "Drift of fusion weights over time"
    needs = "layer weights that vary with time"

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models whose weights depend on time."""
        return "flow_time" in model.weight_axes

    def compute(self, model: SavedModel) -> Arrays:
        """`drift` over the later of each pair of 21 times; `drift_by_block` too where blocks differ."""
        weights = model.distributions
        positions = layer_positions(model.layers)
        later = weights.axes["flow_time"][1:]
        mean = marginals(weights)["flow_time"].values
        arrays = {"drift": NamedArray(wasserstein(mean[:-1], mean[1:], positions), {"flow_time": later})}
        if "block" in weights.axes:
            by_block = normalized(weights.values)
            axes = {"flow_time": later, "block": weights.axes["block"]}
            arrays["drift_by_block"] = NamedArray(wasserstein(by_block[:-1], by_block[1:], positions), axes)
        return arrays

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """The path's length and its fastest piece."""
        drift = arrays["drift"]
        fastest = drift.axes["flow_time"][int(drift.values.argmax())]
        texts = [
            f"From t = 0 to 1 the weights travel {drift.values.sum():.4f} in all, where 1 would be all weight moving "
            f"from the shallowest layer to the deepest. They move fastest just before t = {fastest:.2f}."
        ]
        if "drift_by_block" in arrays:
            traveled = arrays["drift_by_block"].values.sum(0)
            texts.append(
                f"Single blocks travel {traveled.min():.4f} to {traveled.max():.4f} (mean {traveled.mean():.4f}). "
                "Opposite moves of two blocks cancel in the mean of their weights."
            )
        return texts

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """The drift of the weights, or of their mean over blocks with that of single blocks behind it."""
        canvas, (axes,) = panels(1, 1, 3.0)
        drift, blocks = arrays["drift"], arrays.get("drift_by_block")
        times = drift.numbers("flow_time")
        caption = (
            "Drift of the fusion weights: 1-Wasserstein distance between consecutive ones of 21 flow times, on layer "
            "depths scaled to [0, 1]."
        )
        if blocks is not None:
            count = len(blocks.axes["block"])
            for color, row in zip(sequence_colors(count), blocks.values.T, strict=True):
                axes.plot(times, row, color=color, linewidth=0.7)
            sequence_bar(canvas, [axes], count, "DiT block (thin lines)")
            mean = np.mean(blocks.values, axis=1)
            axes.plot(times, mean, color=OKABE_ITO[1], linestyle="--", label="mean of the blocks' distances")
            caption += " Thin lines are single blocks."
        label = "distance of the weights" if blocks is None else "distance of the blocks' mean weights (paper)"
        axes.plot(times, drift.values, color="black", marker="o", markersize=3, label=label)
        axes.set(xlim=(0, 1), xlabel=FLOW_TIME, ylabel="1-Wasserstein distance\nto the weights 0.05 earlier")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return [Figure("drift", canvas, caption)]
