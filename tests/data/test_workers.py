"""Processes that read data: where one dies or fails, one sentence says so, and nothing is lost."""

import os
import signal
from pathlib import Path

import pytest
from tiny import write_images
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as TorchLoader

from semantic_routing.data import FolderSource, ScenesSource
from semantic_routing.data import pack as pack_module
from semantic_routing.data.buckets import fill_buckets
from semantic_routing.data.pack import pack
from semantic_routing.data.workers import DataWorkerError, batches, worker_died


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks after its processes every five seconds."""
    monkeypatch.setattr(TorchLoader._try_get_data, "__defaults__", (0.1,))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_while_packing_costs_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FolderSource(path=write_images(tmp_path / "set", 6))
    pack(config, tmp_path / "whole", 16, shard_size=2)
    row = pack_module._Rows.__getitem__
    with monkeypatch.context() as patch:
        patch.setattr(
            pack_module._Rows, "__getitem__", lambda rows, number: die() if number == 2 else row(rows, number)
        )
        with pytest.raises(DataWorkerError, match=r"^A process that reads data died \(.*\); fewer of them"):
            pack(config, tmp_path / "killed", 16, shard_size=2, num_workers=1)
    assert [path.name for path in (tmp_path / "killed").glob("shard-*")] == ["shard-00000.tar"]
    pack(config, tmp_path / "killed", 16, shard_size=2, num_workers=1)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


def test_a_process_that_dies_while_it_looks_at_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ScenesSource().open(32, 0)
    monkeypatch.setattr(type(source), "length", 4)
    monkeypatch.setattr(type(source), "picture_size", lambda *arguments: die())
    with pytest.raises(DataWorkerError, match="reads data died"):
        fill_buckets(source, [(32, 32)], num_workers=1)


class _Failing(Dataset[int]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, number: int) -> int:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("all 7 are broken: 'a: b'."), OSError("x: no such file")])
def test_a_mistake_says_the_same_in_another_process(error: Exception) -> None:
    loader = DataLoader(_Failing(error), sampler=range(2), num_workers=1)
    with pytest.raises(type(error)) as caught:
        next(batches(loader))
    assert str(caught.value) == str(error)


def test_what_waits_for_children_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for torch's own, left behind by another loader: it would raise wherever the program is."""
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    signal_handling._set_SIGCHLD_handler()
    torchs = signal.getsignal(signal.SIGCHLD)
    try:
        for handler, left in ((signal.SIG_DFL, signal.SIG_DFL), (print, print), (torchs, signal.SIG_DFL)):
            monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
            signal.signal(signal.SIGCHLD, handler)
            next(batches(DataLoader(range(4), num_workers=1)))  # type: ignore[arg-type]
            assert signal.getsignal(signal.SIGCHLD) == left
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    ("error", "died"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), True),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),  # while a batch was fetched from it
        (ConnectionRefusedError(111, "Connection refused"), True),
        (FileNotFoundError(2, "No such file or directory"), True),
        (EOFError(), True),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (PermissionError(13, "Permission denied"), False),
    ],
)
def test_a_process_is_dead_or_its_data_are_bad(error: Exception, died: bool) -> None:
    assert worker_died(error, workers=1) is died
    assert worker_died(error, workers=0) is (died and isinstance(error, RuntimeError))
