"""The loop: what a run leaves behind, and that it can be interrupted anywhere."""

import json
import logging
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import write_images
from torch import Tensor

from semantic_routing.io.jsonl import read_lines
from semantic_routing.training import subject, train
from semantic_routing.training.checkpoint import list_checkpoints, read_state
from semantic_routing.training.config import Config, load_config
from semantic_routing.training.progress import Progress

MakeConfig = Callable[..., Config]
FILES = ("model", "ema", "optimizer")


def contents(checkpoint: Path) -> dict[str, Tensor]:
    return {
        f"{file}/{name}": value
        for file in FILES
        for name, value in load_file(checkpoint / f"{file}.safetensors").items()
    }


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit."""
    ours, theirs = contents(one), contents(other)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not value.equal(theirs[name])] == []
    assert read_state(one) == read_state(other)


def steps(run: Path) -> list[int]:
    return [line["step"] for line in read_lines(run / "metrics.jsonl")]


@pytest.mark.parametrize("optimizer", [{}, {"muon_learning_rate": 1e-3}], ids=["adamw", "muon"])
def test_a_kill_between_checkpoints_is_as_if_it_had_not_been(
    make_config: MakeConfig, tmp_path: Path, image_folder: Path, vae_folder: Path, optimizer: dict[str, float]
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "vae": {"model": str(vae_folder)},
        "model": {"patch_size": 4, "timestep_conditioning": "adaln-single"},
        "data": {
            "source": {"source": "json", "path": str(image_folder)},
            "image_size": 16,
            "random_crop": True,
            "caption_dropout": 0.5,
        },
        "optimizer": {"schedule": "cosine", **optimizer},
    }
    options = {"gradient_accumulation": 2, "precision": "bfloat16"}
    whole, parts = (make_config(**changes, training={"output": tmp_path / name, **options}) for name in ("a", "b"))
    train(whole)
    # What a kill in step 14 leaves: the checkpoint of step 10, and metrics of steps that are not in it.
    shutil.copytree(tmp_path / "a/checkpoint-00000010", tmp_path / "b/checkpoint-00000010")
    lines = (tmp_path / "a/metrics.jsonl").read_text().splitlines()
    (tmp_path / "b/metrics.jsonl").write_text("\n".join(lines[:13]) + '\n{"step": 14, "lo')
    train(parts, "latest")
    assert_same(tmp_path / "a/checkpoint-00000020", tmp_path / "b/checkpoint-00000020")
    metrics = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("a", "b")]
    for line in (*metrics[0], *metrics[1]):
        del line["images_per_second"], line["data_wait"]
    assert metrics[0] == metrics[1]
    assert steps(tmp_path / "b") == list(range(1, 21))


def test_another_seed_is_another_run(make_config: MakeConfig, tmp_path: Path) -> None:
    one, other = (
        contents(train(make_config(training={"output": tmp_path / str(seed), "steps": 2, "seed": seed})))
        for seed in (0, 1)
    )
    assert not one["model/proj_out.weight"].equal(other["model/proj_out.weight"])


def test_ctrl_c_leaves_a_checkpoint_and_gives_signals_back(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = subject.batch_loss, []

    def interrupted(*args: Any) -> Tensor:
        calls.append(0)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*args)

    monkeypatch.setattr(subject, "batch_loss", interrupted)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train(make_config()).name == "checkpoint-00000005"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_running_out_of_time_before_the_first_step_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    late = make_config(training={"output": tmp_path / "late", "max_minutes": 1e-9, "steps": 4})
    assert train(late).name == "checkpoint-00000000"
    resumed = train(make_config(training={"output": tmp_path / "late", "steps": 4}), "latest")
    assert_same(resumed, train(make_config(training={"output": tmp_path / "whole", "steps": 4})))


def test_the_average_is_right_from_the_first_step(make_config: MakeConfig) -> None:
    config = make_config(
        training={"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 3}, optimizer={"schedule": "constant"}
    )
    train(config)
    one, two, three = (contents(path) for path in list_checkpoints(config.training.output))
    for name, value in one.items():
        if name.startswith("ema/"):
            weights = name.replace("ema/", "model/")
            torch.testing.assert_close(value, one[weights])
            # Then decay (1 + n) / (10 + n) until it reaches the one asked for.
            torch.testing.assert_close(two[name], 2 / 11 * one[name] + 9 / 11 * two[weights], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(three[name], 3 / 12 * two[name] + 9 / 12 * three[weights], rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    runs = [
        train(make_config(training={"output": tmp_path / str(option), "steps": 3, "gradient_checkpointing": option}))
        for option in (False, True)
    ]
    assert_same(*runs)


def test_training_learns(make_config: MakeConfig) -> None:
    config = make_config(
        model={"prediction": "sample", "hidden_size": 64},
        training={"steps": 60, "batch_size": 8, "checkpoint_every": 1000},
        optimizer={"schedule": "constant", "learning_rate": 3e-3},
        flow={"timestep_mean": 2.0, "timestep_std": 0.1},
    )
    train(config)
    losses = [line["loss"] for line in read_lines(config.training.output / "metrics.jsonl")]
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])


def test_the_schedule_and_clipping_are_those_of_the_config(make_config: MakeConfig) -> None:
    config = make_config(training={"steps": 6}, optimizer={"warmup_steps": 2, "learning_rate": 1e-2})
    train(config)
    rates = [line["learning_rate"] for line in read_lines(config.training.output / "metrics.jsonl")]
    assert rates == pytest.approx([0.005, 0.01, 0.0075, 0.005, 0.0025, 0.0])


def test_the_time_left_heeds_the_time_allowed() -> None:
    for seconds, left in ((math.inf, "0:01:30 left"), (60.0, "0:00:50 left"), (5.0, "0:00:00 left")):
        progress = Progress(first=100, total=200, visible=False, max_seconds=seconds)
        assert progress._left(110, progress.started + 10) == left


def test_files_of_the_user_s_in_the_output_folder_stay(make_config: MakeConfig) -> None:
    config = make_config(training={"steps": 1})
    run = config.training.output
    for name in ("config.yaml", "metrics.jsonl"):
        run.mkdir()
        (run / name).write_text("mine")
        with pytest.raises(ValueError, match=rf"run/{name} was not written by a run and would be overwritten"):
            train(config)
        assert [(path.name, path.read_text()) for path in run.iterdir()] == [(name, "mine")]
        shutil.rmtree(run)
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    train(config)
    assert (run / "notes.txt").read_text() == "mine"
    for checkpoint in list_checkpoints(run):
        shutil.rmtree(checkpoint)
    train(make_config(training={"steps": 2}))  # what an earlier run wrote is a run's
    assert load_config(str(run / "config.yaml")).training.steps == 2


def test_a_run_is_a_folder(make_config: MakeConfig) -> None:
    config = make_config(
        training={"steps": 4, "log_every": 2},
        validation={"every": 2, "prompts": ["a red circle", "", "two stars"], "num_inference_steps": 2},
    )
    plain = make_config(training={"steps": 4, "output": config.training.output.with_name("plain")})
    checkpoint, run = train(config), config.training.output
    names = {"checkpoint-00000004", "config.yaml", "lock", "metrics.jsonl", "samples", "versions.json"}
    assert {path.name for path in run.iterdir()} == names
    assert {path.suffix for path in checkpoint.iterdir()} == {".safetensors", ".json"}
    assert load_config(str(run / "config.yaml")) == config
    assert {"torch", "diffusers", "transformers", "python"} <= json.loads((run / "versions.json").read_text()).keys()
    assert steps(run) == [2, 4]
    for step in (2, 4):
        image = Image.open(run / "samples" / f"step-{step:08d}.png")
        assert image.width > 3 * image.height / 2  # side by side, with captions
        assert len(set(image.getdata())) > 10
    # Sampling with the averaged weights puts the others back, and draws none of the run's random numbers.
    assert_same(checkpoint, train(plain))


@pytest.mark.parametrize("broken", [1, 4])
def test_broken_images_are_counted_named_and_too_many_stop_the_run(
    make_config: MakeConfig, tmp_path: Path, broken: int, caplog: pytest.LogCaptureFixture
) -> None:
    captions = write_images(tmp_path / "set")
    names = [f"{index}.png" for index in range(broken)]
    for name in names:
        (captions.parent / "images" / name).write_bytes(b"broken")
    source = {"source": "json", "path": str(captions)}
    config = make_config(data={"source": source, "image_size": 16, "max_broken": 0.2}, training={"steps": 6})
    with caplog.at_level(logging.WARNING):
        if broken == 4:
            with pytest.raises(ValueError, match=r"3 of 12 examples are broken, more than data.max_broken 20.00%: "):
                train(config)
            assert not list_checkpoints(config.training.output)
            return
        train(config)
    messages = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith("Skipped a broken example: images/0.png") for message in messages) == 1
    assert messages[-1].startswith("1 broken examples were skipped: images/0.png")


def test_a_strategy_is_given_only_the_layers_that_it_reads(make_config: MakeConfig) -> None:
    checkpoint = train(make_config(model={"strategy": "penultimate"}, training={"steps": 1}))
    assert read_state(checkpoint).transformer["num_text_layers"] == 1
