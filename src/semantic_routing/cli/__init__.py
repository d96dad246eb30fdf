"""`sroute`: one module a command. They import what they need when they run, so that help comes at once."""

import logging
import os
import sys

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from . import (
    ablate,
    analyze,
    caption,
    compare,
    convert,
    evaluate,
    export,
    generate,
    precompute,
    prune,
    quickstart,
    tiny_models,
    train,
    weights,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, sample and look into diffusion transformers that read all layers of a language model.",
)
for module in (
    quickstart,
    train,
    precompute,
    export,
    generate,
    weights,
    analyze,
    prune,
    compare,
    convert,
    ablate,
    caption,
    tiny_models,
):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
app.add_typer(evaluate.app, name="evaluate")


def main() -> None:
    """Runs a command. A user's mistake is one sentence and exit code 2; SROUTE_TRACEBACK=1 shows where it arose."""
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False, show_time=False)],
    )
    # These tell of each file they look for and of each request.
    for noisy in ("httpx", "httpx2", "accelerate", "datasets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("SROUTE_TRACEBACK"):
            raise
        sentence = next(iter(str(error).splitlines()), type(error).__name__)
        console.print(Text.assemble(("Error:", "red"), f" {sentence}"), soft_wrap=True)
        sys.exit(2)
