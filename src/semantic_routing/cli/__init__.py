"""`sroute`: one module a command. They import what they need when they run, so that help comes at once."""

import logging
import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from .. import __version__
from ..io.messages import StoppedError, lacks_memory, sentence_of
from ..io.user_code import import_user_code
from . import (
    ablate,
    adapt,
    analyze,
    caption,
    card,
    compare,
    config,
    convert,
    doctor,
    evaluate,
    export,
    generate,
    pack,
    precompute,
    probe,
    prune,
    quickstart,
    tiny_models,
    train,
    ui,
    weights,
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"sroute {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="FILE_OR_MODULE",
            help="Python file or module of yours that registers fusions, data sources or others. Can be repeated.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Train, sample and study diffusion transformers that read all layers of a language model."""
    import_user_code(imports or [])


for module in (
    quickstart,
    train,
    adapt,
    precompute,
    probe,
    export,
    card,
    generate,
    pack,
    weights,
    ui,
    analyze,
    prune,
    compare,
    convert,
    ablate,
    caption,
    tiny_models,
    doctor,
):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(config.app, name="config")


def main() -> None:
    """Runs a command. A user's mistake is one sentence and exit code 2; SROUTE_TRACEBACK=1 shows where it arose.

    What is no mistake, as a loss that is not finite or a lack of memory, is one sentence and exit code 1.
    """
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False, show_time=False)],
    )
    # These tell of each file they look for and of each request.
    for noisy in ("httpx", "httpx2", "openai", "accelerate", "datasets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(prog_name="sroute")  # shell completion asks for this name, however the command was started
    except (ValueError, OSError) as error:
        if os.environ.get("SROUTE_TRACEBACK"):
            raise
        _say(console, sentence_of(error))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("SROUTE_TRACEBACK") or not (isinstance(error, StoppedError) or lacks_memory(error)):
            raise
        memory = "" if isinstance(error, StoppedError) else "There is not enough memory: "
        _say(console, memory + sentence_of(error))
        sys.exit(1)


def _say(console: Console, sentence: str) -> None:
    console.print(Text.assemble(("Error:", "red"), f" {sentence}"), soft_wrap=True)
