"""Options that several commands have."""

from typing import Annotated, Literal

import typer

from ..io.config_files import find_config, presets


def _existing(name: str) -> str:
    """Refuses a config that does not exist before anything slow is imported."""
    find_config(name)
    return name


def _presets(incomplete: str) -> list[str]:
    """What a shell may complete a config's name to; files it completes itself."""
    return [name for name in presets() if name.startswith(incomplete)]


ConfigName = Annotated[
    str,
    typer.Argument(
        callback=_existing,
        autocompletion=_presets,
        help="YAML file, or a preset such as scenes/depth-wise or paper/joint.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the config, such as training.steps=1000 optimizer.learning_rate=2e-4."),
]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")]
Device = Annotated[str | None, typer.Option(help="Where to compute, such as cuda:1. Default: cuda where there is one.")]
