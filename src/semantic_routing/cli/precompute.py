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
    text: Annotated[
        bool, typer.Option(help="Also write the features of all captions, so that training has no language model.")
    ] = False,
    device: Device = None,
) -> None:
    """Encode a data set's images once, so that training does not run the VAE.

    The config's data, buckets, VAE and text encoder are used. When it is interrupted, run it again to continue.
    Processes that torchrun starts share the work.
    """
    import os

    import torch

    from ..pipelines.loading import usable_device
    from ..training.config import load_config
    from ..training.precompute import precompute

    own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    target = usable_device(device or (own if torch.cuda.is_available() else "cpu"))
    report = precompute(load_config(config, overrides or []), out, batch_size, target, text)
    what = "latents and text features" if text else "latents"
    typer.echo(f"Wrote {what} of {report.examples - len(report.broken)} of {report.examples} examples to {out}.")
    typer.echo(f'To train on them: "data.source={{source: latents, path: {out}}}"')
