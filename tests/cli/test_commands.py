"""What `sroute` says without doing: help, and a dry run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

SROUTE = [sys.executable, "-c", "from semantic_routing.cli import main; main()"]


def sroute(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*SROUTE, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, **options
    )


def write(values: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


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
