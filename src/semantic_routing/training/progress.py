"""The progress line: a live bar on a terminal, a line now and then in a file."""

import math
import sys
import time
from datetime import timedelta
from types import TracebackType

import rich.progress
from rich.console import Console

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Loss, images a second and time left.

    Args:
        first: step to start from.
        total: last step.
        visible: false on all processes but one.
        max_seconds: after which training stops wherever it is.
    """

    def __init__(self, first: int, total: int, visible: bool, max_seconds: float = math.inf) -> None:
        self.first = first
        self.total = total
        self.visible = visible
        self.started = time.perf_counter()
        self.deadline = self.started + max_seconds
        self.last_line = self.started
        console = Console(file=sys.stderr)
        self.live = console.is_terminal
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.1f} images/s"),
            rich.progress.TextColumn("{task.fields[left]}"),
            console=console,
            disable=not (visible and self.live),
        )
        self.task = self.bar.add_task("train", total=total, completed=first, loss=float("nan"), rate=0.0, left="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, step: int, loss: float, rate: float) -> None:
        """Shows where training is; `rate` is in images a second."""
        now = time.perf_counter()
        left = self._left(step, now)
        self.bar.update(self.task, completed=step, loss=loss, rate=rate, left=left)
        if not self.visible or self.live or (now - self.last_line < SECONDS_BETWEEN_LINES and step != self.total):
            return
        self.last_line = now
        print(f"step {step}/{self.total}  loss {loss:.4f}  {rate:.1f} images/s  {left}", file=sys.stderr, flush=True)

    def _left(self, step: int, now: float) -> str:
        """The time that the remaining steps take at the pace so far, or that the run may still take."""
        seconds = (now - self.started) / (step - self.first) * (self.total - step)
        return f"{timedelta(seconds=int(max(min(seconds, self.deadline - now), 0)))} left"
