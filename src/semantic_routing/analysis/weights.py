"""Fusion weights over layers, blocks and flow time (paper, fig. 1, 2, 6 and 7)."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..pipelines.saved import find_pipeline
from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import (
    DASHES,
    OKABE_ITO,
    Drawing,
    grid_of,
    heat_map,
    label_cells,
    panels,
    remove_unused,
    save,
    sequence_colors,
    style,
)
from .base import FINE_TIMES, Analysis, Subject, routed

EVERY = 4  # of the 21 fine times: 0.2 apart


class Weights(Analysis):
    """Which layers each block, at each time, listens to."""

    name = "weights"
    title = "Fusion weights"
    needs = "weights"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Every model with a router."""
        return routed(strategy)

    def compute(self, subject: Subject) -> Arrays:
        """`weights` over flow_time, block and layer, as far as the strategy depends on them."""
        return {"weights": subject.weights(FINE_TIMES)}

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """Curves over layers for some blocks, or all, and heat maps of everything."""
        weights = arrays["weights"]
        drawings = [draw_curves(weights, subject.options.all_blocks), draw_maps(weights)]
        if {"flow_time", "block"} <= weights.axes.keys():
            drawings.append(draw_block_maps(weights))
        return drawings


def draw_weights(pipeline: str | None, out: Path) -> list[Path]:
    """Writes `weights.png`, a heat map of the fusion weights, and `weights.csv`, and returns their paths.

    Args:
        pipeline: folder or hub name; None is the demo model.
        out: folder for the two files.

    Raises:
        ValueError: the folder holds no pipeline, or its transformer has no router.
    """
    subject = Subject(find_pipeline(pipeline))
    weights = Weights().compute(subject)["weights"]
    out.mkdir(parents=True, exist_ok=True)
    with style():
        path = save(draw_maps(weights)._replace(name="weights"), out)[0]
    return [path, weights.write_csv(out / "weights.csv", "weight")]


def coarse_times(weights: NamedArray) -> list[Any]:
    """The flow times that figures show."""
    return weights.axes["flow_time"][::EVERY]


def shown_blocks(weights: NamedArray, everything: bool) -> list[Any]:
    """First, middle and last block, or all."""
    blocks = weights.axes["block"]
    return blocks if everything else sorted({blocks[0], blocks[len(blocks) // 2], blocks[-1]})


def draw_curves(weights: NamedArray, all_blocks: bool = False) -> Drawing:
    """Weights over layers: curves for times, for blocks, or a panel a block where there are both."""
    layers = weights.axes["layer"]
    some = "all blocks" if all_blocks else "the first, the middle and the last block"
    if "flow_time" in weights.axes and "block" in weights.axes:
        blocks = shown_blocks(weights, all_blocks)
        figure, axes = panels(*grid_of(len(blocks), 3), 2.6, 2.2, sharex=True, sharey=True)
        for place, block in zip(axes, blocks, strict=False):
            _time_curves(place, weights.at(block=block), weights)
            place.set_title(f"block {block}")
        remove_unused(axes, len(blocks))
        what = f"of {some} at flow times t (0 is noise, 1 is data)"
    else:
        figure, axes = panels(1, 1, 4.2, 2.8)
        if "flow_time" in weights.axes:
            _time_curves(axes[0], weights.values, weights)
            what = "at flow times t (0 is noise, 1 is data), the same in every block"
        elif "block" in weights.axes:
            _block_curves(axes[0], weights, shown_blocks(weights, all_blocks))
            what = f"of {some}, the same at all times"
        else:
            axes[0].plot(layers, weights.values, color=OKABE_ITO[0], marker="o", markersize=3)
            what = "of all blocks at all times"
    for place in figure.axes:
        place.axhline(1 / len(layers), color="0.5", linewidth=0.7, linestyle=":")
        place.set_ylim(bottom=0)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("language-model layer", fontsize=8)
    figure.supylabel("fusion weight", fontsize=8)
    if len(weights.axes) > 1:
        title = "flow time t" if "flow_time" in weights.axes else "DiT block"
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, title=title, title_fontsize=7, loc="outside right center")
    caption = f"Fusion weights over language-model layers {what}. The dotted line is the uniform mean, 1/{len(layers)}."
    return Drawing("curves", figure, caption)


def _time_curves(axes: Axes, values: NDArray[np.float64], weights: NamedArray) -> None:
    times = coarse_times(weights)
    for time, color in zip(times, sequence_colors(len(times)), strict=True):
        row = weights.axes["flow_time"].index(time)
        axes.plot(weights.axes["layer"], values[row], color=color, label=f"{time:.1f}", marker="o", markersize=2)


def _block_curves(axes: Axes, weights: NamedArray, blocks: list[Any]) -> None:
    few = len(blocks) <= len(OKABE_ITO)
    colors = OKABE_ITO if few else sequence_colors(len(blocks))
    for number, block in enumerate(blocks):
        options: dict[str, Any] = {
            "color": colors[number],
            "linestyle": DASHES[number] if few else "-",
            "label": str(block),
        }
        axes.plot(weights.axes["layer"], weights.at(block=block), marker="o", markersize=2, **options)


def draw_maps(weights: NamedArray) -> Drawing:
    """Heat maps on one scale of colors: blocks by layers, for each of six times where they matter."""
    if "flow_time" in weights.axes and "block" in weights.axes:
        return _draw_time_maps(weights)
    name = next((axis for axis in ("block", "flow_time") if axis in weights.axes), None)
    figure, axes = panels(1, 1, 4.2, 2.8 if name else 1.3)
    mesh = heat_map(axes[0], weights.values if name else weights.values[None], 0.0, float(weights.values.max()))
    label_cells(axes[0], "x", weights.axes["layer"])
    axes[0].set_xlabel("language-model layer")
    if name is None:
        axes[0].set_yticks([])
        where = "the same in all blocks at all times"
    else:
        label_cells(axes[0], "y", weights.axes[name], 8)
        axes[0].set_ylabel({"block": "DiT block", "flow_time": "flow time t"}[name])
        where = {
            "block": "by block, the same at all times",
            "flow_time": "over flow time t (0 is noise, 1 is data), the same in all blocks",
        }[name]
    figure.colorbar(mesh, ax=axes, label="fusion weight")
    return Drawing("maps", figure, f"Fusion weights {where}.")


def _draw_time_maps(weights: NamedArray) -> Drawing:
    figure, axes = panels(2, 3, 2.4, 2.1, sharex=True, sharey=True)
    for place, time in zip(axes, coarse_times(weights), strict=True):
        mesh = heat_map(place, weights.at(flow_time=time), 0.0, float(weights.values.max()))
        place.set_title(f"t = {time:.1f}")
        label_cells(place, "y", weights.axes["block"], 9)
        label_cells(place, "x", weights.axes["layer"], 9)
    figure.supylabel("DiT block", fontsize=8)
    figure.supxlabel("language-model layer", fontsize=8)
    figure.colorbar(mesh, ax=axes, label="fusion weight", shrink=0.9)
    return Drawing("maps", figure, "Fusion weights of all blocks at six flow times t (0 is noise, 1 is data).")


def draw_block_maps(weights: NamedArray) -> Drawing:
    """Heat maps of flow time by layers, one a block."""
    blocks = weights.axes["block"]
    rows, columns = grid_of(len(blocks), 6)
    figure, axes = panels(rows, columns, 1.5, 1.5, sharex=True, sharey=True)
    for place, block in zip(axes, blocks, strict=False):
        mesh = heat_map(place, weights.at(block=block), 0.0, float(weights.values.max()))
        place.set_title(f"block {block}")
        label_cells(place, "x", weights.axes["layer"], 5)
        label_cells(place, "y", weights.axes["flow_time"], 6)
    remove_unused(axes, len(blocks))
    figure.supylabel("flow time t", fontsize=8)
    figure.supxlabel("language-model layer", fontsize=8)
    figure.colorbar(mesh, ax=axes[: len(blocks)], label="fusion weight", shrink=0.9)
    return Drawing("block-maps", figure, "Fusion weights of every block over flow time t (0 is noise, 1 is data).")
