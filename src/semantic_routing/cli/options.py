"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Any, Literal

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
Routing = Annotated[
    Path | None,
    typer.Option(help="Folder of a fusion for a host; the pipeline is then the host's."),
]
HostOptions = Annotated[
    str | None,
    typer.Option(help="YAML of more arguments of a host's call; default: those that the fusion was trained with."),
]
HostSize = Annotated[
    int | None, typer.Option(min=1, help="Pixels a side of a host's images; default: as it was trained.")
]
Device = Annotated[str | None, typer.Option(help="Where to compute, such as cuda:1. Default: cuda where there is one.")]


def read_host_options(text: str | None) -> dict[str, Any] | None:
    """What `--host-options` says.

    Raises:
        ValueError: it is no YAML mapping.
    """
    if text is None:
        return None
    from ..io.strict_yaml import parse_yaml

    values = parse_yaml(text, "--host-options")
    if not isinstance(values, dict):
        raise ValueError(f"--host-options are written like {{max_sequence_length: 120}}, not {text!r}.")
    return values
