"""`sroute tiny-models`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Argument(help="Folder to write, with a folder for each model; must not exist yet.")],
) -> None:
    """Write tiny random language models and an autoencoder, to try commands in seconds and without a network."""
    from ..io.files import whole_folder
    from ..models.tiny_vae import tiny_vae
    from ..text.places import silent
    from ..text.tiny import TINY_MODELS, write_tiny_model

    with whole_folder(out) as partial, silent():
        for name, make in TINY_MODELS.items():
            write_tiny_model(make, partial / name)
        tiny_vae().save_pretrained(partial / "vae")
    for name in TINY_MODELS:
        typer.echo(f"text.model={out / name}")
    typer.echo(f"vae.model={out / 'vae'}")
