"""`sroute compare`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    sides: Annotated[
        list[str],
        typer.Argument(
            help="Sides, the baseline first: the folder of a scored benchmark, or folders of several runs joined by "
            "commas, in the same order of seeds on each side."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the table as JSON, CSV, Markdown and a sortable page.")
    ] = None,
) -> None:
    """Compare scored runs: paired differences with 95 % intervals, corrected for their number, and verdicts."""
    from ..evaluation.compare import compare

    comparison = compare([[Path(run) for run in side.split(",") if run] for side in sides])
    comparison.table().print()
    if out is not None:
        comparison.write(out)
