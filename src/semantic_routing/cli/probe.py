"""`sroute probe`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Dtype


def command(
    text_model: Annotated[str, typer.Argument(help="Folder, hub name or package:NAME of a language model.")],
    out: Annotated[Path, typer.Option(help="Folder for the heat map and the numbers.")] = Path("probe"),
    claims: Annotated[
        str | None, typer.Option(help="Claims of scenes, such as color,number, joined by commas; default: all.")
    ] = None,
    captions: Annotated[int, typer.Option(min=1, help="Captions a claim.")] = 800,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions that the language model reads at a time.")] = 100,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Find which layers of a language model hold which claims of a caption, with linear probes on every layer."""
    from ..analysis.probe import probe, tables, write

    named = [claim.strip() for claim in claims.split(",")] if claims else []
    arrays = probe(text_model, named, captions, device, dtype, batch_size)
    for table in tables(arrays):
        table.print()
    picture = next(path for path in write(arrays, out) if path.suffix == ".png")
    typer.echo(f"Open {picture}")
