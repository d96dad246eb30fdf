"""`sroute precompute`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import ConfigName, Device, Overrides


def command(
    config: ConfigName,
    out: Annotated[Path, typer.Argument(help="Folder to write. An interrupted one is continued.")],
    overrides: Overrides = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the VAE encodes at a time.")] = 16,
    device: Device = None,
) -> None:
    """Encode a data set's images once, so that training does not run the VAE.

    The config's data and VAE are used. When it is interrupted, run it again to continue.
    """
    import torch

    from ..pipelines.loading import usable_device
    from ..training.config import load_config
    from ..training.precompute import precompute

    target = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    report = precompute(load_config(config, overrides or []), out, batch_size, target)
    typer.echo(f"Wrote latents of {report.examples - len(report.broken)} of {report.examples} examples to {out}.")
    typer.echo(f'To train on them: "data.source={{source: latents, path: {out}}}"')
