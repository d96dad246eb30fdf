"""Self-contained HTML pages: a title, sections of text, pictures and tables, nothing fetched from anywhere."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } figure { margin: 1.5rem 0; } figcaption { color: #555; font-size: 0.9rem; }
img { max-width: 100%; } img.pixels { image-rendering: pixelated; } pre { background: #f4f4f4; padding: 0.8rem; }
table { border-collapse: collapse; } th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid #ddd; text-align: left; }
"""


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

    def image(self, path: Path, caption: str, width: int | None = None) -> None:
        """A PNG, copied into the page; `width` in pixels enlarges small pictures without smoothing."""
        data = base64.b64encode(path.read_bytes()).decode()
        size = f' class="pixels" width="{width}"' if width else ""
        caption = html.escape(caption)
        self.parts.append(
            f'<figure><img{size} alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

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
