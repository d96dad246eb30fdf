"""`sroute convert`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    source: Annotated[
        Path, typer.Argument(help="Reference checkpoint: training folder, weights file or exported pipeline.")
    ],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    to_reference: Annotated[
        bool, typer.Option("--to-reference", help="The other way: SOURCE is a pipeline or a transformer of ours.")
    ] = False,
    transformer_only: Annotated[
        bool, typer.Option("--transformer-only", help="Write the model folder alone, without language model and VAE.")
    ] = False,
    weights: Annotated[
        Literal["ema", "raw"] | None, typer.Option(help="Of a training folder; default: ema where there is one.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Language model, by folder or hub name, that the pipeline shall refer to.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer; default: the language model's.")] = None,
    vae: Annotated[str | None, typer.Option(help="Autoencoder, by folder or hub name.")] = None,
    vae_subfolder: Annotated[str | None, typer.Option(help="Folder within it, such as vae.")] = None,
    instruction: Annotated[
        str | None, typer.Option(help="Put before every prompt in training; default: the reference presets'.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens of a prompt in training; default: 512.")] = None,
    shift: Annotated[
        float | None, typer.Option(help="Of the scheduler; default: the exported pipeline's, else 3 as SD3's.")
    ] = None,
) -> None:
    """Turn a checkpoint of the paper's reference implementation into a pipeline folder, or back."""
    from ..interop import Parts, convert, convert_to_reference

    if to_reference:
        lines = convert_to_reference(source, out, transformer_only)
    else:
        parts = Parts(text_encoder, tokenizer, vae, vae_subfolder, instruction, max_length, shift)
        lines = convert(source, out, parts, transformer_only, weights)
    for line in lines:
        typer.echo(line)
