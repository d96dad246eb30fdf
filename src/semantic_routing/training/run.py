"""The folder of a run: resolved config, versions, metrics, checkpoints, sample images."""

from pathlib import Path
from typing import Any

from ..io.files import write_json
from ..io.jsonl import append_line, read_lines, write_lines
from ..io.versions import versions
from .checkpoint import checkpoint_step, list_checkpoints
from .config import Config


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
    write_json(run / "versions.json", versions())
    return run


class Metrics:
    """`metrics.jsonl`: one JSON object a line; on resuming, lines of steps that will be repeated are dropped."""

    def __init__(self, run: Path, first_step: int) -> None:
        self.path = run / "metrics.jsonl"
        write_lines(self.path, [line for line in read_lines(self.path) if line["step"] <= first_step])

    def write(self, **values: Any) -> None:
        """Appends a line."""
        append_line(self.path, values)
