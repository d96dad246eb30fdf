"""The progress line: a live bar on a terminal, a line now and then in a file."""

import sys
import time
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
    """

    def __init__(self, first: int, total: int, visible: bool) -> None:
        self.first = first
        self.total = total
        self.visible = visible
        self.started = time.perf_counter()
        self.last_line = self.started
        console = Console(file=sys.stderr)
        self.live = console.is_terminal
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.1f} images/s  left"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            disable=not (visible and self.live),
        )
        self.task = self.bar.add_task("train", total=total, completed=first, loss=float("nan"), rate=0.0)

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, step: int, loss: float, rate: float) -> None:
        """Shows where training is; `rate` is in images a second."""
        self.bar.update(self.task, completed=step, loss=loss, rate=rate)
        now = time.perf_counter()
        if not self.visible or self.live or (now - self.last_line < SECONDS_BETWEEN_LINES and step != self.total):
            return
        self.last_line = now
        left = (now - self.started) / (step - self.first) * (self.total - step)
        minutes, seconds = divmod(int(left), 60)
        print(
            f"step {step}/{self.total}  loss {loss:.4f}  {rate:.1f} images/s  {minutes}:{seconds:02d} left",
            file=sys.stderr,
            flush=True,
        )
