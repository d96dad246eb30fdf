"""Several processes train what one process trains: data parallel and sharded, on CPUs over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from semantic_routing.io.jsonl import read_lines
from semantic_routing.models import MODELS
from semantic_routing.training import train
from semantic_routing.training.config import load_config
from semantic_routing.training.sharded import read_whole

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
SHARDED = Path(__file__).parent / "fsdp_on_cpu.py"
BIN = Path(sys.executable).parent
MODULE = ["-m", "semantic_routing", "train"]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
TWO_BY_TWO = ["--num_processes", "4", "--parallelism_config_dp_shard_size", "2"]
TWO = [
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
]

LAUNCHERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "accelerate": ([str(BIN / "accelerate"), "launch", *TWO, *MODULE], {}),
    "torchrun": ([str(BIN / "torchrun"), "--nproc_per_node", "2", *MODULE], {}),
    "fsdp2": ([str(BIN / "torchrun"), "--nproc_per_node", "2", str(SHARDED)], FSDP),
    "hsdp": (
        [str(BIN / "accelerate"), "launch", "--config_file", str(CONFIGS / "hsdp.yaml"), *TWO_BY_TWO, str(SHARDED)],
        {},
    ),
}
Metrics = list[dict[str, float]]


def launch(launcher: str, config: Path, output: Path, *more: str) -> Metrics:
    """Trains in two processes, or in four."""
    command, variables = LAUNCHERS[launcher]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    arguments = [*command, str(config), f"training.output={output}", *more]
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return read_lines(output / "metrics.jsonl")


def train_alone(config: Path, output: Path, resume: str | None = None) -> Metrics:
    """Trains in this process."""
    train(load_config(str(config), [f"training.output={output}"]), resume)
    return read_lines(output / "metrics.jsonl")


@pytest.fixture
def config(tiny_values: dict[str, Any], tmp_path: Path) -> Path:
    values = tiny_values
    values["training"] |= {"steps": 4, "checkpoint_every": 2}
    values["optimizer"] = {"learning_rate": 1e-2}
    values["data"]["image_size"] = 32
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return path


def assert_same_curve(seen: Metrics, wanted: Metrics, tolerance: float) -> None:
    assert [line["step"] for line in seen] == [line["step"] for line in wanted]
    assert seen[-1]["step"] == 4
    for one, other in zip(seen, wanted, strict=True):
        for key in ("loss", "grad_norm", "learning_rate"):
            assert one[key] == pytest.approx(other[key], rel=tolerance), key


def assert_same_shards(one: Path, other: Path) -> None:
    """Headers alone may differ, where the order of keys has no meaning."""
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    for name in names - {"state.json"}:
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def largest_difference(first: Path, second: Path, name: str) -> float:
    """Between the last checkpoints' tensors, relative to the largest of each."""
    a, b = (load_file(run / "checkpoint-00000004" / f"{name}.safetensors") for run in (first, second))
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max() / a[key].abs().max().clamp(min=1e-6)) for key in a)


def test_two_processes_train_what_one_does(config: Path, tmp_path: Path) -> None:
    alone = train_alone(config, tmp_path / "alone")
    together = launch("accelerate", config, tmp_path / "together")
    assert_same_curve(together, alone, 1e-5)
    for name in ("model", "ema"):
        assert largest_difference(tmp_path / "alone", tmp_path / "together", name) < 1e-3


def test_sharded_training_goes_on_in_one_process(config: Path, tmp_path: Path) -> None:
    """What is saved does not depend on the number of processes, nor on how they share the model."""
    alone = train_alone(config, tmp_path / "alone")
    launch("fsdp2", config, tmp_path / "sharded", "training.steps=2")
    assert_same_curve(train_alone(config, tmp_path / "sharded", "latest"), alone, 1e-5)


def test_shards_go_on_in_any_number_of_processes(config: Path, tmp_path: Path) -> None:
    """Two processes, bit for bit, also where blocks are computed again and the average lies on the CPU; then four as
    two replicas of two shards; then one, which makes the shards whole."""
    alone = train_alone(config, tmp_path / "alone")
    shards, parts, one = "training.checkpoint_form=sharded", tmp_path / "parts", tmp_path / "one"
    again = [str(config), f"training.output={parts}", shards]
    less_memory = ["training.gradient_checkpointing=true", "training.ema_device=cpu"]
    stages = [shards, "--then", *again, "training.steps=2", "--then", *again, *less_memory, "--resume", "latest"]
    assert_same_curve(launch("fsdp2", config, tmp_path / "two", *stages), alone, 1e-5)
    last = "checkpoint-00000004"
    assert_same_shards(tmp_path / "two" / last, parts / last)
    assert len(list((parts / last).glob("*.safetensors"))) == 2

    middle = str(tmp_path / "two" / "checkpoint-00000002")
    assert_same_curve(launch("hsdp", config, tmp_path / "four", shards, "--resume", middle), alone[2:], 1e-5)
    four = tmp_path / "four" / last
    assert len(list(four.glob("*.safetensors"))) == 4

    train_alone(config, one, str(four))  # has no step to do, and writes what it read
    for part in ("model", "ema", "optimizer"):
        whole, held = load_file(one / last / f"{part}.safetensors"), read_whole(four, f"{part}/")
        assert whole.keys() == held.keys()
        assert all(torch.equal(tensor, held[name]) for name, tensor in whole.items())
    assert largest_difference(tmp_path / "alone", one, "ema") < 1e-3


def test_sharding_does_not_change_precision(config: Path, tmp_path: Path) -> None:
    """In bfloat16 sums depend on how a batch is shared out, but not on where the weights lie."""
    precision = "training.precision=bfloat16"
    whole, sharded = (launch(launcher, config, tmp_path / launcher, precision) for launcher in ("torchrun", "fsdp2"))
    assert_same_curve(sharded, whole, 2e-6)


@pytest.mark.parametrize(
    ("name", "kind"), [("one-gpu", "NO"), ("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("hsdp", "FSDP")]
)
def test_accelerate_reads_its_configs(name: str, kind: str) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert str(config.distributed_type).rpartition(".")[2] == kind
    assert config.mixed_precision == "no"
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
        # The policy without a list of its own wraps what the model calls its blocks.
        for transformer in set(MODELS.values()):
            assert transformer._no_split_modules == transformer._repeated_blocks
