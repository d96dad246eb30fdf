"""`sroute convert`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    source: Annotated[
        Path,
        typer.Argument(help="Checkpoint of the reference: a training folder, a weights file or an exported pipeline."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write, which must not exist yet.")],
    to_reference: Annotated[
        bool,
        typer.Option(
            "--to-reference",
            help="Convert in the other direction: SOURCE is a pipeline or a transformer of this project.",
        ),
    ] = False,
    transformer_only: Annotated[
        bool, typer.Option("--transformer-only", help="Write the transformer alone, without language model and VAE.")
    ] = False,
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(help="Which weights of a training folder to take. Default: ema where there are any."),
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Folder or hub name of the language model that the pipeline uses.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub name of the tokenizer. Default: the language model's.")
    ] = None,
    vae: Annotated[str | None, typer.Option(help="Folder or hub name of the autoencoder.")] = None,
    vae_subfolder: Annotated[
        str | None, typer.Option(help="Folder within that of the autoencoder, such as vae.")
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Option(help="Text that training put before every prompt. Default: that of the reference's presets."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens of a prompt in training. Default: 512.")] = None,
    shift: Annotated[
        float | None,
        typer.Option(help="Shift of the scheduler. Default: that of the exported pipeline, else 3 as for SD3."),
    ] = None,
) -> None:
    """Convert a checkpoint of the paper's reference implementation to a pipeline folder, or the other way."""
    from ..interop import Parts, convert, convert_to_reference

    if to_reference:
        lines = convert_to_reference(source, out, transformer_only)
    else:
        parts = Parts(text_encoder, tokenizer, vae, vae_subfolder, instruction, max_length, shift)
        lines = convert(source, out, parts, transformer_only, weights)
    for line in lines:
        typer.echo(line)
