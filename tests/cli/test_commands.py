"""Commands as a user types them, from a folder of images to pictures; `test_mistakes.py` has what can go wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

SROUTE = [sys.executable, "-c", "from semantic_routing.cli import main; main()"]


def sroute(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*SROUTE, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, **options
    )


@pytest.fixture
def image_config(tiny_values: dict[str, Any], qwen3_vl: Path, vae_folder: Path, image_folder: Path) -> dict[str, Any]:
    """Real image files, a Qwen3-VL text model and an autoencoder."""
    return tiny_values | {
        "text": {"model": str(qwen3_vl), "instruction": "draw "},
        "vae": {"model": str(vae_folder)},
        "model": tiny_values["model"] | {"patch_size": 2},
        "data": {"source": {"source": "json", "path": str(image_folder)}, "image_size": 16},
    }


def write(values: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_train_kill_resume_export_generate(image_config: dict[str, Any], tmp_path: Path) -> None:
    image_config["training"]["steps"] = 100000
    config, run = write(image_config, tmp_path / "config.yaml"), Path(image_config["training"]["output"])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*SROUTE, "train", str(config)], env=environment)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoint-*[0-9]")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    (stopped,) = sorted(run.glob("checkpoint-*"))[-1:]
    last = int(stopped.name.removeprefix("checkpoint-")) + 5
    resumed = sroute("train", config, f"training.steps={last}", "--resume", "latest")
    assert resumed.returncode == 0, resumed.stderr
    assert f"checkpoint-{last:08d}" in resumed.stdout

    pipeline = tmp_path / "pipeline"
    assert sroute("export", run, pipeline).returncode == 0
    assert (pipeline / "text_encoder").is_dir()
    assert (pipeline / "vae").is_dir()
    made = sroute(
        "generate", "a red circle", "two blue squares", "--pipeline", pipeline, "--out", tmp_path / "images",
        "--images-per-prompt", 2, "--steps", 2,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "images").iterdir()}
    single = dict.fromkeys(("00000-0.png", "00000-1.png", "00001-0.png", "00001-1.png"), (16, 16))
    assert sizes == single | {"grid.png": (32, 32)}
    assert sroute("export", run, pipeline).returncode == 2


def test_a_dry_run_trains_nothing(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    result = sroute("train", write(tiny_values, tmp_path / "config.yaml"), "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("strategy: joint", "Parameters", "FLOPs", "Memory", "activations"):
        assert word in result.stdout
    assert not Path(tiny_values["training"]["output"]).exists()


def test_help_names_every_command() -> None:
    text = sroute("--help").stdout
    for command in ("quickstart", "train", "export", "generate", "weights"):
        assert command in text
