"""Self-contained HTML pages: a title, sections of text, pictures and tables, nothing fetched from anywhere."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jinja2

from ..io.files import write_text
from .table import Table

_TEMPLATE = Path(__file__).with_name("page.html")


class Picture(NamedTuple):
    """A PNG as part of the page itself: its data address, its text, and its width in pixels or in inches."""

    data: str
    text: str
    width: int | None = None
    inches: float | None = None


class Gallery(NamedTuple):
    """Rows of a text and columns of pictures."""

    header: Sequence[str]
    rows: list[tuple[str, list[list[Picture]]]]


@dataclass
class Page:
    """A page that grows from top to bottom and is written at once."""

    title: str
    parts: list[tuple[str, str | Picture | Gallery | Table]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Starts a section."""
        self.parts.append(("heading", text))

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(("text", text))

    def code(self, text: str) -> None:
        """Commands or other text of fixed width."""
        self.parts.append(("code", text))

    def image(self, path: Path, caption: str, inches: float | None = None) -> None:
        """A PNG, copied into the page, no wider than `inches`."""
        self.parts.append(("image", _picture(path, caption, inches=inches)))

    def gallery(self, header: Sequence[str], rows: Mapping[str, Sequence[Sequence[Path]]], width: int) -> None:
        """A row of pictures for each text, in columns of several, all enlarged to `width` pixels without smoothing."""
        pictures = [
            (text, [[_picture(path, text, width) for path in column] for column in columns])
            for text, columns in rows.items()
        ]
        self.parts.append(("gallery", Gallery(header, pictures)))

    def table(self, table: Table) -> None:
        """A table, with its caption below it."""
        self.parts.append(("table", table))

    def write(self, path: Path) -> Path:
        """Writes the page and returns its path."""
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
        return write_text(path, template.render(title=self.title, parts=self.parts))


def _picture(path: Path, text: str, width: int | None = None, inches: float | None = None) -> Picture:
    data = base64.b64encode(path.read_bytes()).decode()
    return Picture(f"data:image/png;base64,{data}", text, width, inches)
