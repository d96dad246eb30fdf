"""`sroute compare`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    results: Annotated[list[Path], typer.Argument(help="Folders of scored benchmarks; the first is the baseline.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the table as JSON, CSV and Markdown.")] = None,
) -> None:
    """Put scored runs side by side: paired differences with 95 % intervals, and which are beyond noise."""
    from rich.console import Console

    from ..evaluation.compare import compare

    comparison = compare(results)
    Console(width=max(Console().width, 110)).print(comparison.table())
    if out is not None:
        comparison.write(out)
