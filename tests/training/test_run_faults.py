"""Signals, processes that die, and two runs in one folder: no step is lost, and nothing is written twice."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semantic_routing.training import DataWorkerError, TrainingError, subject, train, trainer
from semantic_routing.training.checkpoint import list_checkpoints
from semantic_routing.training.config import Config

MakeConfig = Callable[..., Config]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Does something in the middle of a step."""
    loss, calls = subject.batch_loss, []

    def interrupted(*args: Any) -> Tensor:
        calls.append(0)
        if len(calls) == step:
            act()
        return loss(*args)

    monkeypatch.setattr(subject, "batch_loss", interrupted)


def send(*numbers: int) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for number in numbers] and None


def test_only_the_first_sigterm_counts(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the last checkpoint is written, too."""
    save = trainer.save_checkpoint

    def interrupted(**arguments: Any) -> Path:
        send(signal.SIGTERM, signal.SIGTERM)()
        return save(**arguments)

    monkeypatch.setattr(trainer, "save_checkpoint", interrupted)
    at_step(monkeypatch, 3, send(signal.SIGTERM, signal.SIGTERM))
    assert train(make_config()).name == "checkpoint-00000003"


def test_only_a_second_ctrl_c_ends_at_once(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 3, send(signal.SIGTERM, signal.SIGINT, signal.SIGINT))  # torchrun passes one on again
        assert train(make_config()).name == "checkpoint-00000003"
    monkeypatch.setattr(trainer, "SAME_INTERRUPT", 0.0)
    at_step(monkeypatch, 2, send(signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(make_config(), "latest")


def test_a_dead_data_worker_costs_no_step(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def config(name: str) -> Config:
        return make_config(data={"num_workers": 1}, training={"steps": 8, "output": tmp_path / name})

    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: [worker.kill() for worker in multiprocessing.active_children()] and None)
        with pytest.raises(DataWorkerError, match="reads data died") as caught:
            train(config("killed"))
    (checkpoint,) = list_checkpoints(tmp_path / "killed")
    step = int(checkpoint.name[-8:])
    assert 3 <= step < 8
    assert f"The checkpoint {checkpoint} holds all {step} steps." in str(caught.value)
    last, whole = train(config("killed"), "latest"), train(config("whole"))
    for path in whole.iterdir():
        assert path.read_bytes() == (last / path.name).read_bytes()


def take_all_memory() -> None:
    """The machine refuses memory, as it does where there is none left."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**24, hard))
    try:
        torch.ones(2**28)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "fail",
    [
        take_all_memory,
        failing(RuntimeError("CUDA out of memory. Tried to allocate 9 bytes.")),
        failing(MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback")),
    ],
)
def test_a_lack_of_memory_says_what_helps(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 3, fail)
        with pytest.raises(TrainingError, match=r"not enough memory for step 3.*: raise training.gradient_acc"):
            train(make_config(training={"checkpoint_every": 2}))
    assert train(make_config(training={"checkpoint_every": 2, "steps": 4}), "latest").name == "checkpoint-00000004"


def test_a_run_s_folder_has_one_writer(make_config: MakeConfig) -> None:
    first = trainer.make_trainer(make_config())
    before = sorted(first.config.training.output.rglob("*"))
    for resume in (None, "latest"):
        with pytest.raises(ValueError, match=r"Another process trains in .*run; wait for its end, or name another"):
            train(make_config(), resume)
    assert sorted(first.config.training.output.rglob("*")) == before
    first.run()
    assert train(make_config(training={"steps": 21}), "latest").name == "checkpoint-00000021"
