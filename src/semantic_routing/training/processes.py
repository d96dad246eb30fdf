"""Several processes of one run: how long they wait for each other, and which of them does not answer."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.distributed import Store  # type: ignore[attr-defined]

WAIT = timedelta(minutes=30)
"""Of a process for the others, such as for the first one while it writes a checkpoint."""

_LAST_WORD = timedelta(seconds=20)  # in which those that wait say so
_POLL = 0.5  # seconds


Answer = TypeVar("Answer")


def ask_first(question: Callable[[], Answer]) -> Answer:
    """The first process's answer, in all processes, which all ask; others need not look at the same files.

    Raises:
        ValueError: the question does, in the first process.
    """
    told: list[Answer | ValueError | None] = [None]
    if PartialState().is_main_process:
        try:
            told = [question()]
        except ValueError as error:
            told = [error]
    (answer,) = broadcast_object_list(told)
    if isinstance(answer, ValueError):
        raise answer
    return answer


def lost_connection(error: Exception) -> bool:
    """Whether an error is of the connection between processes, as gloo and NCCL tell it."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def silent_processes(store: Store, own: int, total: int, wait: timedelta = _LAST_WORD) -> list[int]:
    """Numbers of the processes that do not say within some time that they miss the others too.

    Args:
        store: that all processes share.
        own: number of this process.
        total: of processes.
        wait: for the others.
    """
    store.set(_key(own), "")
    silent = [number for number in range(total) if number != own]
    deadline = time.monotonic() + wait.total_seconds()
    while silent and time.monotonic() < deadline:
        silent = [number for number in silent if not store.check([_key(number)])]
        time.sleep(_POLL if silent else 0)
    return silent


def _key(number: int) -> str:
    return f"semantic-routing/misses-others/{number}"
