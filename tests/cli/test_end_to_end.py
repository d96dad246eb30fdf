"""Real image files, a Qwen3-VL text model and an autoencoder through train, kill, resume, export and generate."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from semantic_routing.io.jsonl import read_lines
from semantic_routing.training import train
from semantic_routing.training.checkpoint import checkpoint_step, list_checkpoints
from semantic_routing.training.config import load_config

SROUTE = str(Path(sys.executable).with_name("sroute"))
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
PATIENCE = 300  # seconds; a slow machine is no failure


def sroute(*arguments: object) -> str:
    """Runs a command to its end and returns its output."""
    command = [SROUTE, *map(str, arguments)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    return result.stdout


def train_until(seen: Callable[[], bool], number: signal.Signals, *arguments: object) -> int:
    """Trains until something is seen, sends a signal, and returns the exit code."""
    command = [SROUTE, "train", *map(str, arguments)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not seen() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.stderr
    process.send_signal(number)
    return process.wait(PATIENCE)


@pytest.fixture
def config(tiny_values: dict[str, Any], qwen3_vl: Path, vae_folder: Path, image_folder: Path, tmp_path: Path) -> Path:
    values = tiny_values | {
        "text": {"model": os.path.relpath(qwen3_vl), "instruction": "draw ", "dtype": "bfloat16"},
        "vae": {"model": str(vae_folder)},
        "data": {"source": {"source": "json", "path": str(image_folder)}, "image_size": 16},
        "validation": {"num_inference_steps": 3, "guidance_scale": 1.5},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 3, "schedule": "constant_with_warmup"},
    }
    values["model"]["patch_size"] = 2
    values["training"] |= {"steps": 1_000_000, "checkpoint_every": 5}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_train_kill_resume_export_generate(config: Path, qwen3_vl: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def last_logged() -> int:
        return max((line["step"] for line in read_lines(run / "metrics.jsonl")), default=0)

    assert train_until(lambda: last_logged() > 7, signal.SIGKILL, config) == -signal.SIGKILL
    killed = checkpoint_step(list_checkpoints(run)[-1])
    assert killed % 5 == 0
    resumed = killed + 5 * (last_logged() > killed)
    assert train_until(lambda: last_logged() > resumed + 5, signal.SIGTERM, config, "--resume", "latest") == 0
    stopped = checkpoint_step(list_checkpoints(run)[-1])
    assert stopped == last_logged() > killed

    # The end, and the same run again without an interruption, in this process.
    overrides = [f"training.steps={stopped + 3}"]
    last = train(load_config(str(config), overrides), "latest")
    whole = train(load_config(str(config), [*overrides, f"training.output={tmp_path / 'whole'}"]))
    assert last.name == whole.name
    for file in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(path / f"{file}.safetensors") for path in (last, whole))
        assert [name for name, value in theirs.items() if not value.equal(ours[name])] == []
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == list(range(1, stopped + 4))

    pipeline, images = tmp_path / "pipeline", tmp_path / "images"
    assert str(pipeline) in sroute("export", run, pipeline)
    assert {path.name for path in pipeline.iterdir()} == {
        "README.md",
        "config.yaml",
        "model_index.json",
        "pipeline.py",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "transformer",
        "vae",
    }
    index = json.loads((pipeline / "model_index.json").read_text())
    assert (index["default_num_inference_steps"], index["default_guidance_scale"]) == (3, 1.5)
    assert index["text_model"] == str(qwen3_vl)  # from whatever folder it was trained in
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("two blue squares\n\na star\n")
    options = ("--pipeline", pipeline, "--steps", 2, "--images-per-prompt", 2, "--out", images)
    output = sroute("generate", "a red circle", "--prompts", prompts, *options)
    assert "6 images" in output
    names = {f"{prompt:05d}-{image}.png" for prompt in range(3) for image in range(2)}
    assert {path.name for path in images.iterdir()} == names | {"grid.png"}
    assert Image.open(images / "00002-1.png").text["prompt"] == "a star"
    sroute("weights", pipeline, "--out", tmp_path / "weights")
    assert {"weights.png", "weights.csv"} <= {path.name for path in (tmp_path / "weights").iterdir()}
