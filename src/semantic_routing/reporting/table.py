"""One table in every form that it is shown in: markdown, CSV, a terminal, a page."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Args:
        header: a title a column.
        rows: each as long as the header.
        caption: what the table says, in a sentence or two.
        title: what stands above it on a terminal.
        left: so many columns stand on the left on a terminal, the others, of numbers, on the right.
        sortable: on a page, a click on a title sorts by that column, by number where cells begin with one.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    caption: str = ""
    title: str = ""
    left: int = 1
    sortable: bool = False

    def markdown(self) -> str:
        """A pipe table, without title and caption."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def csv(self) -> str:
        """Comma-separated values with a header line."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return buffer.getvalue()

    def rich(self) -> "rich.table.Table":
        """For a terminal."""
        import rich.table
        from rich.markup import escape

        table = rich.table.Table(title=escape(self.title) or None, caption=escape(self.caption) or None)
        for column, title in enumerate(self.header):
            table.add_column(escape(title), justify="left" if column < self.left else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def print(self) -> None:
        """Prints the table whole: on a narrow terminal its lines wrap, but no number is cut off."""
        from rich.console import Console
        from rich.measure import Measurement

        table, console = self.rich(), Console()
        wide = Console(width=10_000)
        Console(width=max(console.width, Measurement.get(wide, wide.options, table).maximum)).print(table)
