"""A process that waits in vain says for whom."""

from datetime import timedelta
from threading import Thread

import torch.distributed as dist

from semantic_routing.training.processes import lost_connection, silent_processes


def test_processes_that_say_nothing_are_named() -> None:
    store, seen = dist.HashStore(), []
    wait = timedelta(seconds=2)
    others = [Thread(target=lambda own=own: seen.append(silent_processes(store, own, 4, wait))) for own in (0, 3)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert seen == [[1, 2], [1, 2]]
    assert silent_processes(store, 1, 2, wait) == []


def test_errors_of_the_connection_are_told_from_others() -> None:
    assert lost_connection(dist.DistBackendError("NCCL"))
    assert lost_connection(RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:1] closed by peer"))
    assert not lost_connection(RuntimeError("out of memory"))
