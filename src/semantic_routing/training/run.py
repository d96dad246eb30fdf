"""The folder of a run: resolved config, versions, metrics, checkpoints, sample images."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from ..config import Config
from .checkpoint import checkpoint_step, list_checkpoints

PACKAGES = ("semantic-routing", "torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy")


def prepare_run(config: Config, resumed: Path | None) -> Path:
    """Makes the run's folder and writes what the run is.

    Args:
        config: the run.
        resumed: the checkpoint that it goes on from.

    Raises:
        ValueError: the folder cannot be written, or holds checkpoints that the run would not go on from.
    """
    run = config.training.output
    last = list_checkpoints(run)[-1:]
    if last and resumed is None:
        raise ValueError(f"{run} already holds checkpoints; resume with --resume latest, or name another output.")
    if last and resumed and checkpoint_step(last[0]) > checkpoint_step(resumed):
        raise ValueError(
            f"{run} holds a later checkpoint than {resumed.name}: {last[0].name}; remove it, or name another output."
        )
    try:
        (run / "samples").mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(config.to_yaml())
    except OSError as error:
        raise ValueError(f"The output folder {run} cannot be written: {error.strerror}.") from error
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()
    (run / "versions.json").write_text(json.dumps(versions, indent=1))
    return run


class Metrics:
    """`metrics.jsonl`: one JSON object a line; on resuming, lines of steps that will be repeated are dropped."""

    def __init__(self, run: Path, first_step: int) -> None:
        self.path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= first_step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(self.path)

    def write(self, **values: Any) -> None:
        """Appends a line."""
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; one that an interruption cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
