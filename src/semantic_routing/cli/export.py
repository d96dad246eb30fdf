"""`sroute export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run's for its latest checkpoint.")],
    out: Annotated[Path, typer.Argument(help="Folder of the pipeline; must not exist yet.")],
    weights: Annotated[
        Literal["ema", "raw"], typer.Option(help="The averaged weights, or those of the last step.")
    ] = "ema",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the saved weights.")] = "float32",
    with_text_encoder: Annotated[
        bool, typer.Option(help="Copy the text encoder into the pipeline, or store its name.")
    ] = True,
) -> None:
    """Turn a training checkpoint into a pipeline folder, for `sroute generate` and `from_pretrained`."""
    from ..training.export import export_pipeline

    typer.echo(f"Wrote {export_pipeline(checkpoint, out, weights, dtype, with_text_encoder)}")
