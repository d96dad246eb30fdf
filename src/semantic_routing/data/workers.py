"""Batches that processes read, and what is said when one of these dies or fails."""

import re
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from ..io.messages import LONGEST, StoppedError

DEAD = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)")  # torch's words
FAILED = "Caught "  # torch's first word of what was raised in a process
BROKEN_CONNECTION = (ConnectionError, EOFError, FileNotFoundError)  # the last: a process takes its socket with it


class DataWorkerError(StoppedError):
    """A process that reads data died."""


def batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader, which may have processes that read; its `collate_fn` decides what a batch is.

    Raises:
        DataWorkerError: one of them died, most often because the machine had no memory left.
        ValueError, OSError: one of them raised it; the message is that of the process.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    found = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch would raise the death of a process anywhere; the read below notices it as well. An earlier loader may
        # have left torch's handler behind.
        own = getattr(handler, "__module__", "").startswith("torch.")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if own or handler is None else handler)
    while True:
        try:
            batch = next(found)
        except StopIteration:
            return
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            if worker_died(error, loader.num_workers):
                reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
                raise DataWorkerError(
                    f"A process that reads data died ({reason[:LONGEST]}); fewer of them need less memory."
                ) from error
            if isinstance(error, ValueError | OSError) and str(error).startswith(FAILED):
                # Its first line says no more than that; the last one is the exception's own, after its type.
                last = str(error).strip().splitlines()[-1]
                raise type(error)(last.partition(": ")[2] or last) from error
            raise
        yield batch


def worker_died(error: Exception, workers: int) -> bool:
    """Whether the error of a read means that a process that reads data is gone.

    torch says so where it finds the process dead. A batch that was ready is still fetched from the process that made
    it, though; where that one has just been killed, the connection breaks before torch can know. What is wrong with the
    data itself begins with other words of torch's.
    """
    if isinstance(error, RuntimeError):
        return bool(DEAD.search(str(error)))
    return workers > 0 and isinstance(error, BROKEN_CONNECTION) and not str(error).startswith(FAILED)
