"""`sroute train`."""

from typing import Annotated

import typer


def command(
    config: Annotated[str, typer.Argument(help="A YAML file, or a preset such as scenes/depth-wise or paper/joint.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the config: training.steps=1000 optimizer.learning_rate=2e-4 …"),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="'latest', or a checkpoint's folder: go on as if never interrupted.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config and what the run costs, and stop.")
    ] = False,
) -> None:
    """Train a diffusion transformer. Ctrl-C writes a checkpoint and leaves."""
    from ..training.config import load_config

    loaded = load_config(config, overrides or [])
    if dry_run:
        from ..training.dry_run import describe

        typer.echo(describe(loaded))
        return
    from ..training import NonFiniteLossError, train

    try:
        checkpoint = train(loaded, resume)
    except NonFiniteLossError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"Last checkpoint: {checkpoint}")
