"""How smoothly the router's attention moves over time (paper, fig. 9)."""

import numpy as np

from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import OKABE_ITO, Drawing, panels, sequence_colors
from .base import FINE_TIMES, Analysis, Subject, marginals, on_time
from .statistics import layer_positions, wasserstein


class Drift(Analysis):
    """1-Wasserstein distance between fusion weights at consecutive times."""

    name = "drift"
    title = "Drift of fusion weights over time"
    needs = "weights"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Models whose weights depend on time."""
        return on_time(strategy)

    def compute(self, subject: Subject) -> Arrays:
        """`drift` over the later of each pair of 21 times; `drift_by_block` too where blocks differ."""
        weights = subject.weights(FINE_TIMES)
        positions = layer_positions(subject.layers)
        later = weights.axes["flow_time"][1:]
        mean = marginals(weights)["flow_time"].values
        arrays = {"drift": NamedArray(wasserstein(mean[:-1], mean[1:], positions), {"flow_time": later})}
        if "block" in weights.axes:
            distances = wasserstein(weights.values[:-1], weights.values[1:], positions)
            axes = {"flow_time": later, "block": weights.axes["block"]}
            arrays["drift_by_block"] = NamedArray(distances, axes)
        return arrays

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """The path's length and its fastest piece."""
        drift = arrays["drift"]
        fastest = drift.axes["flow_time"][int(drift.values.argmax())]
        texts = [
            f"From t = 0 to 1 the weights travel {drift.values.sum():.4f} in all, where 1 would be all weight moving "
            f"from the shallowest layer to the deepest; fastest just before t = {fastest:.2f}."
        ]
        if "drift_by_block" in arrays:
            traveled = arrays["drift_by_block"].values.sum(0)
            texts.append(
                f"Single blocks travel {traveled.min():.4f} to {traveled.max():.4f} (mean {traveled.mean():.4f}); "
                "what blocks do in opposite directions cancels in their mean."
            )
        return texts

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """The drift of the weights, or of their mean over blocks with that of single blocks behind it."""
        figure, axes = panels(1, 1, 4.2, 2.6)
        drift, blocks = arrays["drift"], arrays.get("drift_by_block")
        if blocks is not None:
            for color, row in zip(sequence_colors(len(blocks.axes["block"])), blocks.values.T, strict=True):
                axes[0].plot(blocks.numbers("flow_time"), row, color=color, linewidth=0.6)
            average = np.mean(blocks.values, axis=1)
            axes[0].plot(
                drift.numbers("flow_time"), average, color=OKABE_ITO[1], linestyle="--", label="mean of blocks"
            )
        axes[0].plot(
            drift.numbers("flow_time"),
            drift.values,
            color="black",
            marker="o",
            markersize=3,
            label="weights averaged over blocks" if blocks is not None else "weights",
        )
        axes[0].set_xlim(0, 1)
        axes[0].set_ylim(bottom=0)
        axes[0].set_xlabel("flow time t (0 noise, 1 data)")
        axes[0].set_ylabel("1-Wasserstein distance\nto the weights 0.05 earlier")
        caption = (
            "Drift of the fusion weights: 1-Wasserstein distance between consecutive ones of 21 flow times, on layer "
            "depths scaled to [0, 1]."
        )
        if blocks is not None:
            figure.legend(*axes[0].get_legend_handles_labels(), ncols=2, loc="outside upper center")
            caption += " Thin lines are single blocks, from the first (dark) to the last (pale)."
        return [Drawing("drift", figure, caption)]
