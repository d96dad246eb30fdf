"""`sroute weights`."""

from pathlib import Path
from typing import Annotated

import typer

from ..io.importing import importing
from .options import Routing


def command(
    pipeline: Annotated[str, typer.Argument(help="Pipeline folder or hub name; 'demo' is the demo model.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder for weights.png and weights.csv.")] = Path("weights"),
    routing: Routing = None,
) -> None:
    """Draw which language-model layers each block listens to, and over time where that varies."""
    with importing():
        from ..analysis.weights import draw_weights

    for path in draw_weights(pipeline, out, routing):
        typer.echo(f"Wrote {path}")
