"""`sroute compare`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    results: Annotated[list[Path], typer.Argument(help="Folders of scored benchmarks; the first is the baseline.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the table as JSON, CSV and Markdown.")] = None,
) -> None:
    """Put scored runs side by side: paired differences with 95 % intervals, and which are beyond noise."""
    from ..evaluation.compare import compare
    from ..evaluation.report import print_table

    comparison = compare(results)
    print_table(comparison.table())
    if out is not None:
        comparison.write(out)
