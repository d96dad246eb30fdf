"""`sroute config`."""

import typer

app = typer.Typer(no_args_is_help=True, help="What a config may say.")


@app.callback()
def _group() -> None:
    """Keeps `schema` a command of its own, although it is the only one."""


@app.command()
def schema() -> None:
    """Print the JSON schema of config files, with which editors complete and check them.

    Registered names are part of it: those of your own files too, with sroute --import FILE config schema.
    """
    import json

    from ..training.schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=1, ensure_ascii=False))
