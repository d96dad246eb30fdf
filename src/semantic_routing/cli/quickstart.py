"""`sroute quickstart`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[
        Path, typer.Option(help="Folder for the run and its page: a new one, or that of an earlier quickstart.")
    ] = Path("quickstart"),
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of training.")] = 4.0,
) -> None:
    """Train a small model for a few minutes, sample from it, and write a page that shows what it learned.

    When it is interrupted, run it again to continue.
    """
    from ..experiments.quickstart import quickstart

    typer.echo(f"Open {quickstart(out, minutes).resolve().as_uri()}")
