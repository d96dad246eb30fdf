"""`sroute export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run's for its newest checkpoint.")],
    out: Annotated[Path, typer.Argument(help="Folder of the pipeline, which must not exist yet.")],
    weights: Annotated[
        Literal["ema", "raw"], typer.Option(help="ema: the averaged weights; raw: the weights of the last step.")
    ] = "ema",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the saved weights.")] = "float32",
    with_text_encoder: Annotated[
        bool, typer.Option(help="Copy the text encoder into the pipeline. Without it, only its name is stored.")
    ] = True,
) -> None:
    """Turn a training checkpoint into a pipeline folder.

    The folder is what `sroute generate` and `SemanticRoutingPipeline.from_pretrained` take. Of a run with
    training.lora_rank it holds the LoRA alone, for `load_lora_weights` of the pipeline that the run began from.
    """
    from ..training.export import export_pipeline

    typer.echo(f"Wrote {export_pipeline(checkpoint, out, weights, dtype, with_text_encoder)}")
