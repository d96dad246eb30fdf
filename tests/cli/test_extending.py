"""The walk of docs/extending.md, in an empty folder: a fusion of one's own through every command."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from semantic_routing.io.jsonl import read_lines
from semantic_routing.training.checkpoint import list_checkpoints

GUIDE = Path(__file__).parents[2] / "docs" / "extending.md"
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
PATIENCE = 300  # seconds; a slow machine is no failure

# The guide trains a model of some size; the walk is the same with a tiny one.
SMALL = "model.num_blocks=2 model.hidden_size=32 model.num_attention_heads=2 model.num_key_value_heads=2"
SMALL += " model.attention_head_dim=16 training.batch_size=4 training.steps=40 training.checkpoint_every=2"
MORE = {
    "train": SMALL.split(),
    "generate": ["--steps", "2", "--images-per-prompt", "1"],
    "analyze": ["--only", "weights", "--only", "usage", "--num-prompts", "2", "--steps", "2"],
    "prune": ["--num-prompts", "2", "--steps", "2"],
    "ablate": [
        *SMALL.replace("steps=40", "steps=2").split(),
        "--seeds",
        "0",
        "--prompts-per-half",
        "1",
        "--steps",
        "2",
    ],
}


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def command(line: str) -> list[str]:
    words = shlex.split(line, comments=True)[1:]
    name = next(word for word in words if word in {*MORE, "export", "compare"})
    return [sys.executable, "-m", "semantic_routing", *words, *MORE.get(name, [])]


def run(line: str, folder: Path) -> str:
    result = subprocess.run(
        command(line), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert result.returncode == 0, f"{line}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the guide's commands."""
    folder = tmp_path_factory.mktemp("walk")
    for text in (*blocks("python")[:1], *blocks("yaml")[:1]):
        (folder / text.partition("\n")[0].removeprefix("# ").strip()).write_text(text)
    lines = [line for text in blocks("") for line in text.splitlines() if line.startswith("sroute ")]
    process = subprocess.Popen(command(lines[0]), cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not list_checkpoints(folder / "runs/word-gate") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    for line in lines[1:]:
        run(line, folder)
    return folder


def test_training_went_on_after_it_was_killed(walk: Path) -> None:
    steps = [line["step"] for line in read_lines(walk / "runs/word-gate/metrics.jsonl")]
    assert steps[-1] == 40
    assert len(set(steps)) == len(steps)


def test_every_command_left_its_result(walk: Path) -> None:
    results = ("images/00000-0.png", "report/index.html", "word-gate-3/model_index.json", "runs/ablation/index.html")
    assert [name for name in results if not (walk / name).is_file()] == []


def test_without_the_file_the_error_names_the_fusion_and_its_place(walk: Path) -> None:
    line = 'sroute generate "a red circle" --pipeline word-gate'
    result = subprocess.run(command(line), cwd=walk, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    message = " ".join(result.stderr.split())
    assert "'word-gate'" in message
    assert "word_gate" in message.replace("'word-gate'", "")
