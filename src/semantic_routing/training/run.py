"""The folder of a run: resolved config, versions, metrics, checkpoints, sample images."""

from collections.abc import Sequence
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from filelock import FileLock, Timeout

from ..io.extras import how_to_install
from ..io.files import CONFIG, METRICS, JsonObject, sync, write_json, write_text
from ..io.jsonl import append_line, read_lines, write_lines
from ..io.messages import brief
from ..io.versions import versions
from .checkpoint import checkpoint_folders, make_way
from .config import RunConfig

VERSIONS = "versions.json"
LOCK = "lock"


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that `accelerate` does not know or that are not installed.

    Raises:
        ValueError: naming the first of them.
    """
    known, installed = {"all", *LOGGER_TYPE_TO_CLASS}, {"all", *map(str, get_available_trackers())}
    for name in names:
        if name not in known:
            raise ValueError(f"training.trackers: expected some of {', '.join(sorted(known))}, not {brief(name)}.")
        if name not in installed:
            raise ValueError(
                f"training.trackers: the package of the tracker {name!r} is not installed: {how_to_install(name)}"
            )


class RunLock:
    """Keeps a run's folder for one process, which writes in it, until it is released or the process ends.

    Args:
        run: the folder. What is no run yet gets no file in it.

    Raises:
        ValueError: another process has it.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.lock = FileLock(run / LOCK, timeout=0)
        if (run / VERSIONS).is_file():
            self.acquire()

    def acquire(self) -> None:
        """Takes the folder, which must exist. Raises ValueError where another process has it."""
        if self.lock.is_locked:
            return
        try:
            self.lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"Another process trains in {self.run}; wait for its end, or name another training.output."
            ) from error

    def release(self) -> None:
        """Gives the folder back. The file stays: removing it would let two others lock two files of one name."""
        self.lock.release()


def prepare_run(config: RunConfig, resumed: Path | None, lock: RunLock) -> Path:
    """Makes the run's folder and writes what the run is.

    Args:
        config: the run.
        resumed: the checkpoint that it goes on from.
        lock: of the folder.

    Raises:
        ValueError: the folder cannot be written, another process trains in it, or it holds checkpoints that the run
            would not go on from, or files of the user's under names that a run writes.
    """
    run = config.training.output
    if not checkpoint_folders(run) and not (run / VERSIONS).exists():  # which a run writes first
        for name in (CONFIG, METRICS):
            if (run / name).exists():
                raise ValueError(
                    f"{run / name} was not written by a run and would be overwritten; name another training.output."
                )
    try:
        (run / "samples").mkdir(parents=True, exist_ok=True)
        lock.acquire()
        make_way(run, resumed)
        write_json(run / VERSIONS, versions())
        write_text(run / CONFIG, config.to_yaml())
    except OSError as error:
        if error.strerror is None:  # it says already what cannot be written
            raise
        raise ValueError(f"The output folder {run} cannot be written: {error.strerror}.") from error
    return run


class Metrics:
    """`metrics.jsonl`: one JSON object a line; on resuming, lines of steps that will be repeated are dropped."""

    def __init__(self, run: Path, first_step: int) -> None:
        self.path = run / METRICS
        self.first_step = first_step
        write_lines(self.path, filter(self._is_kept, read_lines(self.path)))

    def write(self, **values: object) -> None:
        """Appends a line."""
        append_line(self.path, values)

    def sync(self) -> None:
        """Waits until all lines are on disk: a checkpoint must not outlive the lines before it."""
        sync(self.path)

    def _is_kept(self, line: JsonObject) -> bool:
        step = line.get("step")
        return isinstance(step, int) and step <= self.first_step
