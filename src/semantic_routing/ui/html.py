"""What the page shows besides forms: rows of pictures, tables and heat maps, as HTML that screen readers can read."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import matplotlib
import numpy as np
from matplotlib.colors import Normalize, to_hex
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import __version__
from ..io.files import JsonObject
from ..reporting.arrays import Coordinate, Coordinates
from ..reporting.table import Table

SOFTWARE = f"semantic-routing {__version__}"
SMALL = 128
"""Pictures with fewer pixels a side are enlarged without smoothing."""
FEW = 12
"""Heat maps of so many columns have their numbers in the cells."""

_ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_TEMPLATES = _ENVIRONMENT.from_string(Path(__file__).with_name("parts.html").read_text(encoding="utf-8")).module


class Shown(NamedTuple):
    """A picture, what it shows in words, what stands below it, and the name of its file where it can be saved."""

    image: Image.Image
    text: str
    caption: str = ""
    file: str | None = None
    record: JsonObject | None = None

    @property
    def small(self) -> bool:
        """Whether it is enlarged without smoothing."""
        return max(self.image.size) < SMALL

    @property
    def data(self) -> str:
        """The PNG as a data address, so that nothing of a user lies in a folder that others could read."""
        return "data:image/png;base64," + base64.b64encode(png(self.image, self.record)).decode()


class Row(NamedTuple):
    """Pictures side by side, below a title."""

    title: str
    pictures: Sequence[Shown]


class HeatMap(NamedTuple):
    """Numbers in colored cells.

    Args:
        title: what the numbers are.
        values: a row of cells each.
        rows: their names.
        columns: theirs.
        corner: what rows and columns are.
        colors: name of a color map of matplotlib, or the map.
        scale: `values` as they are colored, from `low` to `high`; None colors the values themselves.
        low: where the colors begin.
        high: where they end.
        note: how to read the colors.
    """

    title: str
    values: NDArray[np.float64]
    rows: Coordinates
    columns: Coordinates
    corner: str
    colors: Any
    low: float
    high: float
    scale: NDArray[np.float64] | None = None
    note: str = ""

    @property
    def lines(self) -> list[tuple[Coordinate, list[tuple[str, str, str]]]]:
        """Each row's name and cells: text, background and text color."""
        shades = matplotlib.colormaps[self.colors] if isinstance(self.colors, str) else self.colors
        norm = Normalize(self.low, self.high, clip=True)
        colored = self.values if self.scale is None else self.scale
        lines = []
        for name, values, places in zip(self.rows, self.values, colored, strict=True):
            cells = []
            for value, place in zip(values, places, strict=True):
                shade = shades(np.nan if np.isnan(place) else float(norm(place)))
                light = shade[0] * 0.3 + shade[1] * 0.59 + shade[2] * 0.11 > 0.5
                cells.append((f"{value:.2f}", to_hex(shade), "#000" if light else "#fff"))
            lines.append((name, cells))
        return lines

    @property
    def wide(self) -> bool:
        """Whether the numbers have no room in the cells."""
        return len(self.columns) > FEW


def png(image: Image.Image, record: JsonObject | None = None) -> bytes:
    """The file of a picture; its PNG texts are the prompt, the seed, and as JSON all settings of `record`."""
    info = PngInfo()
    if record is not None:
        settings = json.dumps(record, ensure_ascii=False)
        texts = {"prompt": record["prompt"], "seed": record["seed"], "settings": settings, "software": SOFTWARE}
        for name, text in texts.items():
            info.add_itxt(name, str(text))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def rows_of_pictures(rows: Sequence[Row]) -> str:
    """Rows of pictures, one below the other."""
    return _part("rows", rows)


def table(content: Table) -> str:
    """A table with its caption."""
    return _part("table", content)


def heat_map(content: HeatMap) -> str:
    """A table with colored cells."""
    return _part("heat_map", content)


def escaped(text: str) -> str:
    """Text that HTML shows as it is."""
    return str(markupsafe.escape(text))


def paragraph(text: str) -> str:
    """A sentence, with its characters escaped."""
    return _part("paragraph", text)


def _part(name: str, content: object) -> str:
    """What the macro called `name` of `parts.html` makes of its argument."""
    return str(getattr(_TEMPLATES, name)(content))
