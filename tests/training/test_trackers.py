"""Trackers, where their packages are installed: what a run logs arrives there, and a resumed run goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from semantic_routing.io.jsonl import read_lines
from semantic_routing.training import train
from semantic_routing.training.config import Config

MakeConfig = Callable[..., Config]


def run_and_resume(make_config: MakeConfig, tracker: str) -> list[dict[str, float]]:
    """Trains three steps and three more; returns the metrics that were written."""
    for steps, resume in ((3, None), (6, "latest")):
        config = make_config(training={"steps": steps, "trackers": [tracker], "log_every": 1})
        train(config, resume)
    return read_lines(config.training.output / "metrics.jsonl")


def test_tensorboard(make_config: MakeConfig) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = run_and_resume(make_config, "tensorboard")
    events = EventAccumulator(str(make_config().training.output / "semantic-routing"))
    events.Reload()
    for name in ("loss", "grad_norm", "learning_rate", "data_wait"):
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        assert seen == [(line["step"], pytest.approx(line[name])) for line in lines]


def test_wandb_offline(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    lines = run_and_resume(make_config, "wandb")
    wandb.teardown()  # which waits until all of it is written
    runs = sorted((make_config().training.output / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2
    for line in lines:  # values lie in W&B's own format as JSON
        kept = runs[line["step"] > 3].read_bytes()
        for name in ("loss", "grad_norm", "learning_rate", "data_wait"):
            assert json.dumps(line[name]).encode() in kept
    assert not Path("wandb").exists()
