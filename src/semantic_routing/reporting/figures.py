"""How figures look: sizes in print, colors that color-blind readers can tell apart, PNG and SVG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Okabe and Ito's qualitative palette, the yellow left out: it vanishes on white paper.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
SEQUENTIAL = "viridis"
MATRIX = "cividis"
DPI = 200

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


class Drawing(NamedTuple):
    """A figure, the stem of its files, and the caption that it can be printed with."""

    name: str
    figure: Figure
    caption: str


@contextmanager
def style() -> Iterator[None]:
    """Makes figures that are drawn and saved inside look alike."""
    with matplotlib.rc_context(STYLE):
        yield


def panels(rows: int, columns: int, width: float = 3.3, height: float = 2.4, **share: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` x `columns` panels in reading order, each `width` x `height` inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **share)
    return figure, list(grid.flat)


def grid_of(count: int, most_columns: int) -> tuple[int, int]:
    """Rows and columns for `count` panels, without empty places where a fair shape allows it."""
    columns = min(count, most_columns)
    columns = next((even for even in range(columns, columns // 2, -1) if count % even == 0), columns)
    return -(-count // columns), columns


def remove_unused(axes: Sequence[Axes], used: int) -> None:
    """Empties the places after the first `used` panels."""
    for unused in axes[used:]:
        unused.remove()


def sequence_colors(count: int) -> list[Any]:
    """Colors for an ordered family of curves, the pale end of the map left out."""
    return list(matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.88, count)))


def heat_map(axes: Axes, values: NDArray[np.float64], low: float, high: float, colors: str = SEQUENTIAL) -> Any:
    """Cells centered on whole numbers, row 0 at the bottom; returns what a color bar needs."""
    rows, columns = values.shape
    return axes.pcolormesh(
        np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, values, cmap=colors, vmin=low, vmax=high
    )


def label_cells(axes: Axes, axis: str, labels: Sequence[Any], most: int = 12) -> None:
    """Ticks at the cells of a heat map; of many labels every n-th is written."""
    every = -(-len(labels) // most)
    places = list(range(0, len(labels), every))
    texts = [f"{label:g}" if isinstance(label, float) else str(label) for label in labels[::every]]
    (axes.set_xticks if axis == "x" else axes.set_yticks)(places, texts)


def signed(number: float, digits: int) -> str:
    """A number with its sign, a minus being a minus and not a hyphen."""
    return f"{number:+.{digits}f}".replace("-", "−")


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Writes the PNG, which comes first, and the SVG."""
    paths = [folder / f"{drawing.name}.png", folder / f"{drawing.name}.svg"]
    drawing.figure.savefig(paths[0], dpi=DPI)
    drawing.figure.set_layout_engine("none")  # all is in its place now
    drawing.figure.savefig(paths[1], metadata={"Date": None})
    return paths
