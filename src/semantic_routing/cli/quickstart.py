"""`sroute quickstart`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder for the run and its page.")] = Path("quickstart"),
    minutes: Annotated[float, typer.Option(min=0.1, help="How long to train.")] = 4.0,
) -> None:
    """Train a small depth-wise model for a few minutes, sample, draw its weights, and write a page about it.

    Interrupted, it goes on from where it was when run again.
    """
    from ..experiments.quickstart import quickstart

    typer.echo(f"Open {quickstart(out, minutes).resolve().as_uri()}")
