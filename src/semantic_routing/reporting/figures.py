"""How figures look: one width for all, colors that color-blind readers can tell apart, PNG and SVG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap
from numpy.typing import NDArray
from PIL import Image

# Okabe and Ito's qualitative palette, the yellow left out: it vanishes on white paper.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
SEQUENTIAL = "viridis"
MATRIX = "cividis"
DPI = 200
WIDTH = 7.2  # inches: a page of print, and with `SCREEN` the width of an HTML page
SCREEN = 1.25  # a screen is read from further away than paper

Shared = bool | Literal["none", "all", "row", "col"]

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "semantic-routing",
    "axes.formatter.useoffset": False,
}


class Figure(NamedTuple):
    """What was drawn, the stem of its files, and the caption that it can be printed with."""

    name: str
    canvas: matplotlib.figure.Figure
    caption: str


@contextmanager
def style() -> Iterator[None]:
    """Makes figures that are drawn and saved inside look alike."""
    with matplotlib.rc_context(STYLE):
        yield


def panels(
    rows: int,
    columns: int,
    height: float = 2.4,
    sharex: Shared = False,
    sharey: Shared = False,
    width_ratios: Sequence[float] | None = None,
    height_ratios: Sequence[float] | None = None,
) -> tuple[matplotlib.figure.Figure, list[Axes]]:
    """A canvas of `rows` x `columns` panels in reading order, each `height` inches high, `WIDTH` wide together.

    What panels share and the ratios of their sides are as `matplotlib` has them.
    """
    canvas = matplotlib.figure.Figure(figsize=(WIDTH, height * rows), layout="constrained")
    grid = canvas.subplots(
        rows,
        columns,
        sharex=sharex,
        sharey=sharey,
        squeeze=False,
        width_ratios=width_ratios,
        height_ratios=height_ratios,
    )
    return canvas, list(grid.flat)


def raster(picture: Image.Image) -> matplotlib.figure.Figure:
    """A canvas that is a picture, pixel by pixel at `DPI`."""
    canvas = matplotlib.figure.Figure(figsize=(picture.width / DPI, picture.height / DPI))
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return canvas


def grid_of(count: int, most_columns: int) -> tuple[int, int]:
    """Rows and columns for `count` panels, without empty places where a fair shape allows it."""
    columns = min(count, most_columns)
    columns = next((even for even in range(columns, columns // 2, -1) if count % even == 0), columns)
    return -(-count // columns), columns


def remove_unused(axes: Sequence[Axes], used: int) -> None:
    """Empties the places after the first `used` panels."""
    for unused in axes[used:]:
        unused.remove()


def sequence_colors(count: int) -> list[tuple[float, ...]]:
    """Colors for an ordered family of curves, the pale end of the map left out."""
    return [tuple(color) for color in matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.88, count))]


def sequence_bar(canvas: matplotlib.figure.Figure, axes: Sequence[Axes], count: int, label: str) -> None:
    """The legend of curves in `sequence_colors(count)`: a bar with a cell a curve."""
    colors = matplotlib.colors.ListedColormap(sequence_colors(count))
    cells = ScalarMappable(BoundaryNorm(np.arange(count + 1) - 0.5, count), colors)
    ticks = range(0, count, -(-count // 12))
    canvas.colorbar(cells, ax=axes, label=label, ticks=list(ticks))


def heat_map(
    axes: Axes, values: NDArray[np.float64], low: float, high: float, colors: str | Colormap = SEQUENTIAL
) -> ScalarMappable:
    """Cells centered on whole numbers, row 0 at the bottom; returns what a color bar needs."""
    rows, columns = values.shape
    x, y = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    # As one image: thousands of cells make an SVG large, and viewers show seams between them.
    return axes.pcolormesh(x, y, values, cmap=colors, vmin=low, vmax=high, rasterized=True)


def label_cells(axes: Axes, axis: str, labels: Sequence[object], most: int = 12) -> None:
    """Ticks at the cells of a heat map; of many labels every n-th is written."""
    every = -(-len(labels) // most)
    places = list(range(0, len(labels), every))
    texts = [f"{label:g}" if isinstance(label, float) else str(label) for label in labels[::every]]
    (axes.set_xticks if axis == "x" else axes.set_yticks)(places, texts)


def signed(number: float, digits: int) -> str:
    """A number with its sign, a minus being a minus and not a hyphen; what rounds to 0 is +0."""
    return f"{number:+z.{digits}f}".replace("-", "−")


def save(figure: Figure, folder: Path) -> list[Path]:
    """Writes the PNG, which comes first, and the SVG."""
    paths = [folder / f"{figure.name}.png", folder / f"{figure.name}.svg"]
    figure.canvas.savefig(paths[0], dpi=DPI)
    figure.canvas.set_layout_engine("none")  # all is in its place now
    figure.canvas.savefig(paths[1], dpi=DPI, metadata={"Date": None})
    return paths
