"""Training in several processes, on CPUs over gloo: all learn what one process learns, and any number goes on.

Each run makes four steps of a tiny model. Its losses are compared with those of one process: relative differences that
rounding explains are wanted. Then a run of two processes is terminated and goes on, which is compared bit for bit, and
one process of two is stopped, which the other must name. FSDP2 runs on CPUs by `tests/training/fsdp_on_cpu.py`.

It takes half an hour of one core.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import typer

from semantic_routing.io.jsonl import read_lines
from semantic_routing.text.tiny import TINY_MODELS, write_tiny_model
from semantic_routing.training.export import export_pipeline
from semantic_routing.training.sharded import read_whole

SHARDED = Path(__file__).parents[1] / "tests" / "training" / "fsdp_on_cpu.py"
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
STEPS, MIDDLE = 4, 2
LARGEST_DIFFERENCE = 1e-5
STOPPED_FOR = 20  # seconds, until the other process gives up


class Run(NamedTuple):
    """A run, the one whose checkpoint of two steps it goes on from, and the one that it is compared with."""

    name: str
    options: tuple[str, ...] = ()
    after: str | None = None
    like: str = "one"


PIPELINE = "pipeline"  # of the first run
LORA = ("training.lora_rank=2", f"training.initialize_from={PIPELINE}")


# Those of one line run in the same processes, one after the other.
LAUNCHES: list[tuple[int, list[Run]]] = [
    (1, [Run("one")]),
    (
        2,
        [
            Run("two"),
            Run("two, whole checkpoints", ("training.checkpoint_form=whole",)),
            Run("two, blocks computed again", ("training.gradient_checkpointing=true",)),
            Run("two, compiled", ("training.compile=true", "training.gradient_checkpointing=true")),
            Run("two, average on the CPU", ("training.ema_device=cpu",)),
            Run("two after one", after="one"),
        ],
    ),
    (4, [Run("four"), Run("four after one", after="one"), Run("four after two", after="two")]),
    (2, [Run("two after four", after="four"), Run("two after two, whole checkpoints", after="two, whole checkpoints")]),
    (1, [Run("one after two", after="two")]),
    (1, [Run("one after four", after="four")]),
    (1, [Run("one, LoRA", LORA, like="one, LoRA")]),
    (2, [Run("two, LoRA", LORA, like="one, LoRA"), Run("two, LoRA after one", LORA, "one, LoRA", "one, LoRA")]),
]


def command(processes: int, runs: list[list[str]]) -> tuple[list[str], dict[str, str]]:
    """Command and environment of runs in the same processes; four are two replicas of two shards."""
    words = [word for run in runs for word in ["--then", *run]][1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if processes == 1:
        return [sys.executable, "-m", "semantic_routing", "train", *words], environment
    environment |= FSDP
    if processes == 4:
        environment["ACCELERATE_USE_PARALLELISM_CONFIG"] = "true"
        environment |= {f"PARALLELISM_CONFIG_DP_{axis}_SIZE": "2" for axis in ("REPLICATE", "SHARD")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return [*torchrun, str(SHARDED), *words], environment


def arguments(folder: Path, run: Run) -> list[str]:
    """Of `sroute train`."""
    words = [str(folder / "config.json"), f"training.output={folder / run.name}", *run.options]
    if run.after is not None:
        words += ["--resume", str(folder / run.after / f"checkpoint-{MIDDLE:08d}")]
    return words


def difference(folder: Path, run: Run) -> float:
    """The largest between the losses of a run and those of one process, relative to these."""
    wanted, seen = (
        {line["step"]: line["loss"] for line in read_lines(folder / name / "metrics.jsonl")}
        for name in (run.like, run.name)
    )
    assert max(seen) == STEPS, run.name
    return max(abs(loss / wanted[step] - 1) for step, loss in seen.items())


def write_config(folder: Path) -> None:
    """Of a tiny model that learns scenes."""
    write_tiny_model(TINY_MODELS["qwen3"], folder / "text")
    model = {"strategy": "joint", "num_blocks": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"attention_head_dim": 8, "hidden_size": 32, "patch_size": 4, "timestep_conditioning": "adaln-zero"}
    values = {
        "model": model | sizes,
        "text": {"model": str(folder / "text")},
        "data": {"source": {"source": "scenes"}, "image_size": 32},
        "optimizer": {"learning_rate": 1e-2},
        "training": {
            "output": "runs/none",
            "steps": STEPS,
            "batch_size": 4,
            "precision": "float32",
            "log_every": 1,
            "checkpoint_every": MIDDLE,
            "checkpoint_form": "sharded",
        },
    }
    (folder / "config.json").write_text(json.dumps(values))


def start(folder: Path, name: str, *options: str) -> subprocess.Popen[str]:
    """A run of two processes that goes on until it is stopped; returns after its first step."""
    words, environment = command(2, [arguments(folder, Run(name, options))])
    environment["WAIT_SECONDS"] = str(STOPPED_FOR)
    started = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    while not read_lines(folder / name / "metrics.jsonl"):
        if started.poll() is not None:
            raise RuntimeError(f"{name} ended: {started.communicate()[1][-2000:]}")
        time.sleep(0.2)
    return started


def terminate_and_go_on(folder: Path) -> str:
    """What SLURM does to a run: SIGTERM to the launcher, and later the same command again."""
    started = start(folder, "preempted", "training.steps=100000", "training.checkpoint_every=100000")
    started.send_signal(signal.SIGTERM)
    started.communicate()
    (saved,) = (folder / "preempted").glob("checkpoint-*")
    last = int(saved.name[-8:]) + 2
    options = [f"training.steps={last}", f"training.checkpoint_every={last}"]
    again = [*arguments(folder, Run("preempted", tuple(options))), "--resume", "latest"]
    words, environment = command(2, [again, arguments(folder, Run("uninterrupted", tuple(options)))])
    subprocess.run(words, env=environment, check=True)
    ends = [folder / name / f"checkpoint-{last:08d}" for name in ("preempted", "uninterrupted")]
    one, other = (read_whole(end, "") for end in ends)
    same = one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())
    end = "the same tensors as" if same else "ANOTHER END THAN"
    return f"terminated in step {last - 2}, with a checkpoint; two steps later {end} without"


def stop_one(folder: Path) -> str:
    """What the other process says."""
    started = start(folder, "stopped", "training.steps=100000")
    workers = sorted(psutil.Process(started.pid).children(), key=lambda worker: int(worker.environ()["RANK"]))
    workers[1].suspend()
    try:
        while workers[0].is_running() and workers[0].status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    finally:
        workers[1].kill()
    lines = started.communicate()[1].splitlines()
    return next((line for line in lines if "does not answer" in line), "NOBODY IS NAMED")


def main(
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; None makes one and removes it.")] = None,
) -> None:
    """Runs all, and prints a line of each."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (out or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder)
        for processes, runs in LAUNCHES:
            words, environment = command(processes, [arguments(folder, run) for run in runs])
            subprocess.run(words, env=environment, check=True, cwd=folder)
            if not (folder / PIPELINE).exists():
                export_pipeline(folder / "one", folder / PIPELINE)
            for run in runs:
                found = difference(folder, run)
                typer.echo(f"{run.name}: {found:.1e}{'' if found <= LARGEST_DIFFERENCE else ', TOO MUCH'}")
        typer.echo(terminate_and_go_on(folder))
        typer.echo(stop_one(folder))


if __name__ == "__main__":
    typer.run(main)
