"""`sroute precompute`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[str, typer.Argument(help="The run's YAML file, or a preset; its data and VAE are read.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; one that was begun is continued.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the config, as for sroute train.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the VAE encodes at once.")] = 16,
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is one.")] = None,
) -> None:
    """Compute a data set's latents ahead, so that training need not run the VAE. Stopped, it goes on when run again."""
    import torch

    from ..pipelines.loading import usable_device
    from ..training.config import load_config
    from ..training.precompute import precompute

    target = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    report = precompute(load_config(config, overrides or []), out, batch_size, target)
    typer.echo(f"Wrote latents of {report.examples - len(report.broken)} of {report.examples} examples to {out}.")
    typer.echo(f'To train on them: "data.source={{source: latents, path: {out}}}"')
