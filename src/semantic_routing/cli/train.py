"""`sroute train`."""

from typing import Annotated

import typer

from .options import ConfigName, Overrides


def command(
    config: ConfigName,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(help="'latest' or a checkpoint's folder: continue the run as if it had never been interrupted."),
    ] = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="With --resume: a key of the config that may differ from the run so far, such as "
            "optimizer.learning_rate. Can be repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the resolved config and what the run costs, check that its data exists, and stop."
        ),
    ] = False,
) -> None:
    """Train a diffusion transformer.

    Ctrl-C finishes the current step, writes a checkpoint and stops; --resume latest continues from there.
    """
    from ..training.config import load_config

    loaded = load_config(config, overrides or [])
    if dry_run:
        from ..training.dry_run import check_inputs, describe

        typer.echo(describe(loaded))
        typer.echo(check_inputs(loaded))
        return
    from ..training import train

    checkpoint = train(loaded, resume, allow_change or [])
    typer.echo(f"Last checkpoint: {checkpoint}")
