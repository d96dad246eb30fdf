"""Self-contained HTML pages: a title, sections of text, pictures and tables, nothing fetched from anywhere."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } figure { margin: 1.5rem 0; } figcaption { color: #555; font-size: 0.9rem; }
img { max-width: 100%; } img.pixels { image-rendering: pixelated; margin-right: 4px; }
pre { background: #f4f4f4; padding: 0.8rem; }
table { border-collapse: collapse; } td:has(img) { white-space: nowrap; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid #ddd; text-align: left; }
"""


def _inline(path: Path, text: str, width: int | None = None) -> str:
    """A PNG as part of the page itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    size = f' class="pixels" width="{width}"' if width else ""
    return f'<img{size} alt="{html.escape(text)}" src="data:image/png;base64,{data}">'


@dataclass
class Page:
    """A page that grows from top to bottom and is written at once."""

    title: str
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Starts a section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Commands or other text of fixed width."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def image(self, path: Path, caption: str, inches: float | None = None) -> None:
        """A PNG, copied into the page, no wider than `inches`."""
        style = f' style="max-width: {inches:g}in"' if inches else ""
        caption_html = f"<figcaption>{html.escape(caption)}</figcaption>"
        self.parts.append(f"<figure{style}>{_inline(path, caption)}{caption_html}</figure>")

    def gallery(self, header: Sequence[str], rows: Mapping[str, Sequence[Sequence[Path]]], width: int) -> None:
        """A row of pictures for each text, in columns of several, all enlarged to `width` pixels without smoothing."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = ""
        for text, columns in rows.items():
            cells = ("".join(_inline(path, text, width) for path in column) for column in columns)
            body += f"<tr><td>{html.escape(text)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table of texts and numbers."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def write(self, path: Path) -> Path:
        """Writes the page and returns its path."""
        title = html.escape(self.title)
        path.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
            f"<h1>{title}</h1>{''.join(self.parts)}</html>",
            encoding="utf-8",
        )
        return path
