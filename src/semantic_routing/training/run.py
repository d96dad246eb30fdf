"""The folder of a run: resolved config, versions, metrics, checkpoints, sample images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from ..io.extras import how_to_install
from ..io.files import write_json, write_text
from ..io.jsonl import append_line, read_lines, write_lines
from ..io.versions import versions
from .checkpoint import checkpoint_step, list_checkpoints
from .config import RunConfig

CONFIG = "config.yaml"
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that `accelerate` does not know or that are not installed.

    Raises:
        ValueError: naming the first of them.
    """
    known, installed = {"all", *LOGGER_TYPE_TO_CLASS}, {"all", *map(str, get_available_trackers())}
    for name in names:
        if name not in known:
            raise ValueError(f"training.trackers: expected some of {', '.join(sorted(known))}, not {name!r}.")
        if name not in installed:
            raise ValueError(
                f"training.trackers: the package of the tracker {name!r} is not installed: {how_to_install(name)}"
            )


def prepare_run(config: RunConfig, resumed: Path | None) -> Path:
    """Makes the run's folder and writes what the run is.

    Args:
        config: the run.
        resumed: the checkpoint that it goes on from.

    Raises:
        ValueError: the folder cannot be written, holds checkpoints that the run would not go on from, or holds files of
            the user's under names that a run writes.
    """
    run = config.training.output
    last = list_checkpoints(run)[-1:]
    if last and resumed is None:
        raise ValueError(f"{run} already holds checkpoints; resume with --resume latest, or name another output.")
    if last and resumed and checkpoint_step(last[0]) > checkpoint_step(resumed):
        raise ValueError(
            f"{run} holds a later checkpoint than {resumed.name}: {last[0].name}; remove it, or name another output."
        )
    if not last and not (run / VERSIONS).exists():  # which a run writes first
        for name in (CONFIG, METRICS):
            if (run / name).exists():
                raise ValueError(
                    f"{run / name} was not written by a run and would be overwritten; name another training.output."
                )
    try:
        (run / "samples").mkdir(parents=True, exist_ok=True)
        write_json(run / VERSIONS, versions())
        write_text(run / CONFIG, config.to_yaml())
    except OSError as error:
        raise ValueError(f"The output folder {run} cannot be written: {error.strerror}.") from error
    return run


class Metrics:
    """`metrics.jsonl`: one JSON object a line; on resuming, lines of steps that will be repeated are dropped."""

    def __init__(self, run: Path, first_step: int) -> None:
        self.path = run / METRICS
        write_lines(self.path, [line for line in read_lines(self.path) if line["step"] <= first_step])

    def write(self, **values: Any) -> None:
        """Appends a line."""
        append_line(self.path, values)
