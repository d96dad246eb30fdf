"""`sroute prune`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Dtype


def command(
    pipeline: Annotated[str, typer.Argument(help="Pipeline folder or hub name; 'demo' is the demo model.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new pipeline; must not exist yet.")],
    keep: Annotated[int | None, typer.Option(min=1, help="Keep the K layers with the most weight.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Or keep the layers to which any block at any time gives this weight or more."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt a line; default: scenes.")] = None,
    num_prompts: Annotated[int, typer.Option(min=1, help="How many scenes, where no file is given.")] = 44,
    steps: Annotated[int | None, typer.Option(min=2, help="Euler steps; default: the pipeline's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=1, help="Classifier-free guidance scale; default: the pipeline's.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Write a pipeline that reads fewer language-model layers, and say what that saves and changes."""
    from ..analysis.model import AnalysisOptions
    from ..analysis.prune import prune
    from ..pipelines.generate import read_prompts

    options = AnalysisOptions(
        prompts=tuple(read_prompts(prompts)) if prompts else None,
        num_prompts=num_prompts,
        steps=steps,
        guidance=guidance,
        dtype=dtype,
        device=device,
    )
    for sentence in prune(pipeline, out, keep, threshold, options):
        typer.echo(sentence)
    typer.echo(f"Wrote {out}")
