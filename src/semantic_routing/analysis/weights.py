"""Fusion weights over layers, blocks and flow time (paper, fig. 1, 2, 6 and 7)."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..reporting.arrays import Arrays, Coordinate, NamedArray
from ..reporting.figures import (
    DASHES,
    OKABE_ITO,
    Figure,
    grid_of,
    heat_map,
    label_cells,
    panels,
    remove_unused,
    save,
    sequence_colors,
    style,
)
from .base import ANALYSES, AXIS_LABELS, FLOW_TIME, Analysis
from .model import SavedModel, open_model

EVERY = 4  # of the 21 fine times: 0.2 apart, as in the paper's fig. 2

# Octaves of α · L: 0 is the uniform weight 1/L. One scale for all models, so that their maps can be compared.
OCTAVES = 2
DIVERGING = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.6")
SCALE = "White is the uniform weight 1/L; the scale is relative to it and the same for all models."


@ANALYSES.register("weights")
class Weights(Analysis):
    """Which layers each block, at each time, listens to."""

    title = "Fusion weights"
    needs = "a fusion that has layer weights"

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Every model with layer weights."""
        return model.weights is not None

    def compute(self, model: SavedModel) -> Arrays:
        """`weights` over flow_time, block and layer, as far as they vary."""
        if model.weights is None:
            raise ValueError(f"There are no layer weights to draw: this model {model.fusion_sentence}.")
        return {"weights": model.weights}

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """Over what the weights are means."""
        texts = []
        if model.varies_with & {"token", "state"}:
            count = len(model.prompts)
            texts.append(f"Weights are means over the real tokens of each prompt, then over {count} prompts.")
        if "state" in model.varies_with:
            texts.append(
                f"This fusion reads the image. Its weights were recorded while the prompts were sampled in "
                f"{model.steps} steps at guidance {model.guidance:g}, and interpolated in time."
            )
        return texts

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """Curves over layers for some blocks, or all, and heat maps of everything."""
        weights = arrays["weights"]
        figures = [draw_curves(weights, model.options.all_blocks), draw_maps(weights)]
        if {"flow_time", "block"} <= weights.axes.keys():
            figures.append(draw_block_maps(weights))
        return figures


def draw_weights(pipeline: str, out: Path, routing: Path | None = None) -> list[Path]:
    """Writes `weights.png`, a heat map of the fusion weights, and `weights.csv`, and returns their paths.

    Args:
        pipeline: folder, hub name or "demo".
        out: folder for the two files.
        routing: folder of a fusion; the pipeline is then the host's, which weights that vary with the token need.

    Raises:
        ValueError: the folder holds no pipeline, or its fusion has no layer weights.
    """
    weights = Weights().compute(open_model(pipeline, routing=routing))["weights"]
    out.mkdir(parents=True, exist_ok=True)
    with style():
        path = save(draw_maps(weights)._replace(name="weights"), out)[0]
    return [path, weights.write_csv(out / "weights.csv", "weight")]


def octaves(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """log₂(α · L), where 0 is the uniform weight; NaN for negative weights. The last axis is that of layers."""
    ratio = weights * weights.shape[-1]
    # A weight of 0 lies below every scale of ratios, and so at this one's lower end.
    return np.where(ratio < 0, np.nan, np.log2(np.maximum(ratio, 2.0 ** -(OCTAVES + 1))))


def weight_map(axes: Axes, weights: NDArray[np.float64]) -> ScalarMappable:
    """Cells in the colors of `SCALE`; negative weights are gray."""
    return heat_map(axes, octaves(weights), -float(OCTAVES), float(OCTAVES), DIVERGING)


def weight_bar(
    canvas: Canvas, axes: list[Axes], cells: ScalarMappable, layers: int, shrink: float = 1.0, location: str = "right"
) -> None:
    """The color bar of `weight_map`, in weights."""
    bar = canvas.colorbar(cells, ax=axes, label="fusion weight", extend="both", shrink=shrink, location=location)
    ticks = (-OCTAVES, 0, OCTAVES)
    bar.set_ticks(list(ticks), labels=[f"{2.0**tick / layers:.2g}" for tick in ticks])


def coarse_times(weights: NamedArray) -> list[Coordinate]:
    """The flow times that figures show."""
    return weights.axes["flow_time"][::EVERY]


def shown_blocks(weights: NamedArray, everything: bool) -> list[Coordinate]:
    """First, middle and last block, of 24 the paper's 0, 11 and 23; or all."""
    blocks = weights.axes["block"]
    return blocks if everything else list(dict.fromkeys([blocks[0], blocks[(len(blocks) - 1) // 2], blocks[-1]]))


def draw_curves(weights: NamedArray, all_blocks: bool = False) -> Figure:
    """Weights over layers: curves for times, for blocks, or a panel a block where there are both."""
    layers = weights.axes["layer"]
    some = "all blocks" if all_blocks else "the first, the middle and the last block"
    if "flow_time" in weights.axes and "block" in weights.axes:
        blocks = shown_blocks(weights, all_blocks)
        canvas, axes = panels(*grid_of(len(blocks), 3), 2.2, sharex=True, sharey=True)
        for place, block in zip(axes, blocks, strict=False):
            _time_curves(place, weights.at(block=block), weights)
            place.set_title(f"block {block}")
        remove_unused(axes, len(blocks))
        what = f"of {some} at flow times t (0 is noise, 1 is data)"
    else:
        canvas, axes = panels(1, 1, 2.8)
        if "flow_time" in weights.axes:
            _time_curves(axes[0], weights.values, weights)
            what = "at flow times t (0 is noise, 1 is data), the same in every block"
        elif "block" in weights.axes:
            _block_curves(axes[0], weights, shown_blocks(weights, all_blocks))
            what = f"of {some}, the same at all times"
        else:
            axes[0].plot(layers, weights.values, color=OKABE_ITO[0], marker="o", markersize=3)
            what = "of all blocks at all times"
    for place in canvas.axes:
        place.axhline(1 / len(layers), color="0.5", linewidth=0.7, linestyle=":")
        place.set_ylim(bottom=min(0.0, float(weights.values.min())))
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.supxlabel("language-model layer", fontsize=8)
    canvas.supylabel("fusion weight", fontsize=8)
    if len(weights.axes) > 1:
        title = "flow time t" if "flow_time" in weights.axes else "DiT block"
        handles, labels = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, title=title, title_fontsize=7, loc="outside right center")
    caption = f"Fusion weights over language-model layers {what}. The dotted line is the uniform mean, 1/{len(layers)}."
    return Figure("curves", canvas, caption)


def _time_curves(axes: Axes, values: NDArray[np.float64], weights: NamedArray) -> None:
    times = coarse_times(weights)
    for time, color in zip(times, sequence_colors(len(times)), strict=True):
        row = weights.axes["flow_time"].index(time)
        axes.plot(weights.axes["layer"], values[row], color=color, label=f"{time:.1f}", marker="o", markersize=2)


def _block_curves(axes: Axes, weights: NamedArray, blocks: list[Coordinate]) -> None:
    few = len(blocks) <= len(OKABE_ITO)
    colors = OKABE_ITO if few else sequence_colors(len(blocks))
    for number, block in enumerate(blocks):
        color, dash = colors[number], DASHES[number] if few else "-"
        values = weights.at(block=block)
        axes.plot(weights.axes["layer"], values, color=color, ls=dash, marker="o", ms=2, label=str(block))


def draw_maps(weights: NamedArray) -> Figure:
    """Heat maps on one scale of colors: blocks by layers, for each of six times where they matter."""
    if "flow_time" in weights.axes and "block" in weights.axes:
        return _draw_time_maps(weights)
    name = next((axis for axis in ("block", "flow_time") if axis in weights.axes), None)
    canvas, axes = panels(1, 1, 2.8 if name else 1.3)
    cells = weight_map(axes[0], weights.values if name else weights.values[None])
    label_cells(axes[0], "x", weights.axes["layer"])
    axes[0].set_xlabel("language-model layer")
    if name is None:
        axes[0].set_yticks([])
        where = "the same in all blocks at all times"
    else:
        label_cells(axes[0], "y", weights.axes[name], 8)
        axes[0].set_ylabel(AXIS_LABELS[name])
        where = "by block, the same at all times" if name == "block" else "over flow time, the same in all blocks"
    weight_bar(canvas, axes, cells, len(weights.axes["layer"]))
    return Figure("maps", canvas, f"Fusion weights {where}. {SCALE}")


def _draw_time_maps(weights: NamedArray) -> Figure:
    canvas, axes = panels(2, 3, 2.1, sharex=True, sharey=True)
    for place, time in zip(axes, coarse_times(weights), strict=True):
        cells = weight_map(place, weights.at(flow_time=time))
        place.set_title(f"t = {time:.1f}")
        label_cells(place, "y", weights.axes["block"], 9)
        label_cells(place, "x", weights.axes["layer"], 9)
    canvas.supylabel("DiT block", fontsize=8)
    canvas.supxlabel("language-model layer", fontsize=8)
    weight_bar(canvas, axes, cells, len(weights.axes["layer"]), shrink=0.9)
    caption = f"Fusion weights of all blocks at six flow times t (0 is noise, 1 is data). {SCALE}"
    return Figure("maps", canvas, caption)


def draw_block_maps(weights: NamedArray) -> Figure:
    """Heat maps of flow time by layers, one a block."""
    blocks = weights.axes["block"]
    rows, columns = grid_of(len(blocks), 6)
    canvas, axes = panels(rows, columns, 1.5, sharex=True, sharey=True)
    for place, block in zip(axes, blocks, strict=False):
        cells = weight_map(place, weights.at(block=block))
        place.set_title(f"block {block}")
        label_cells(place, "x", weights.axes["layer"], 5)
        label_cells(place, "y", weights.axes["flow_time"], 6)
    remove_unused(axes, len(blocks))
    canvas.supylabel(FLOW_TIME, fontsize=8)
    canvas.supxlabel("language-model layer", fontsize=8)
    weight_bar(canvas, axes[: len(blocks)], cells, len(weights.axes["layer"]), shrink=0.9)
    return Figure("block-maps", canvas, f"Fusion weights of every block over flow time. {SCALE}")
