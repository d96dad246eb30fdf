"""Kills and damaged inputs: nothing may be lost, and nothing may end in a traceback, hang or be taken for whole.

Every long job is killed and terminated at random moments, while it saves above all, and goes on; it must end bit for
bit as if it had not been interrupted. Configs, records, images, shards, checkpoints and pipelines are damaged at random
and read. All of it is repeated by its seed, and goes on where it was stopped. Wanted is 0 of everything.
"""

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
import yaml
from PIL import Image

from semantic_routing.data.pack import pack
from semantic_routing.io.jsonl import Ledger, work_key, write_lines
from semantic_routing.models.tiny_vae import tiny_vae
from semantic_routing.text.tiny import TINY_MODELS, write_tiny_model
from semantic_routing.training import train
from semantic_routing.training.config import Config, load_config
from semantic_routing.training.export import export_pipeline
from semantic_routing.training.precompute import precompute

from . import common
from .fault_inputs import KINDS, InputReport, Samples, fuzz
from .fault_jobs import all_jobs, training_job
from .fault_kills import KillReport, interrupt

IMAGES = 12
KILLS_A_PART, INPUTS_A_PART = 25, 250


class Part(NamedTuple):
    """What is done in one go, and done again from its start where it was stopped."""

    name: str
    work: Callable[[], KillReport | InputReport]


def make_samples(folder: Path) -> tuple[Samples, Config]:
    """Tiny models and images, a run of two steps and what is made of it; and the config of runs to interrupt."""
    write_tiny_model(TINY_MODELS["qwen3"], folder / "text")
    tiny_vae().save_pretrained(folder / "vae")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    records = [{"image": f"{number}.png", "text": f"a red circle and {number} stars"} for number in range(IMAGES)]
    write_lines(folder / "records.jsonl", records)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(_config_values(folder)))
    config = load_config(str(path))
    path.write_text(config.to_yaml())  # all keys, so that each is damaged
    checkpoint = config.training.output / "checkpoint-00000002"
    in_child(lambda: train(load_config(str(path), ["training.steps=2"])))
    in_child(lambda: export_pipeline(checkpoint, folder / "pipeline"))
    in_child(lambda: precompute(config, folder / "latents", 4, torch.device("cpu"), text=True))
    in_child(lambda: pack(config.data.source, folder / "shards", 16, shard_size=6))
    return Samples(
        config=path,
        records=folder / "records.jsonl",
        checkpoint=checkpoint,
        pipeline=folder / "pipeline",
        shards=folder / "shards",
        latents=folder / "latents",
    ), config


def _config_values(folder: Path) -> dict[str, Any]:
    model = {"strategy": "joint", "num_blocks": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"attention_head_dim": 8, "hidden_size": 32, "patch_size": 4, "timestep_conditioning": "adaln-zero"}
    sizes["rope_base"] = 1e5  # as a checkpoint of the reference has it
    source = {"source": "json", "path": str(folder / "records.jsonl")}
    training = {"output": str(folder / "run"), "steps": 40, "batch_size": 4, "log_every": 1, "checkpoint_every": 3}
    return {
        "model": model | sizes,
        "text": {"model": str(folder / "text")},
        "vae": {"model": str(folder / "vae")},
        "data": {"source": source, "image_size": 16},
        "training": training,
    }


def in_child(work: Callable[[], object]) -> None:
    """Runs something in a process of its own, so that this one can be forked: accelerate keeps its state for good."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("The samples cannot be made; what went wrong stands above.")


def parts(folder: Path, kills: int, inputs: int, seed: int) -> Iterator[Part]:
    """All interruptions and all damaged inputs, damaged inputs first.

    Args:
        folder: an empty one for everything that is made.
        kills: interruptions of training in one process, and of the other jobs together.
        inputs: damaged ones, shared by all kinds; pipelines, which take longest, get a tenth.
        seed: of all of it.
    """
    samples, config = make_samples(folder)
    others = inputs - inputs // 10
    for number, kind in enumerate(KINDS):  # pipelines last
        count = inputs // 10 if kind == "pipelines" else (others + number) // (len(KINDS) - 1)
        for first in range(0, count, INPUTS_A_PART):
            numbers = range(first, min(first + INPUTS_A_PART, count))
            place = folder / "damaged" / f"{kind}-{first}"
            yield Part(f"{kind} from {first}", partial(fuzz, kind, samples, place, numbers, seed))
    wanted = all_jobs(samples, config, folder) if kills > 2 else [training_job(config)] if kills else []
    shares = [kills if number == 0 else -(-kills // (len(wanted) - 1)) for number in range(len(wanted))]
    for first in range(0, kills, KILLS_A_PART):
        for number, job in enumerate(wanted):
            if first < shares[number]:
                random = np.random.default_rng([seed, number, first])
                place, count = folder / f"job-{number}-{first}", min(shares[number] - first, KILLS_A_PART)
                yield Part(f"{job.name} from {first}", partial(interrupt, job, place, count, random))


def main(
    kills: Annotated[int, typer.Option(min=0, help="Of training, and as many of the other jobs.")] = 200,
    inputs: Annotated[int, typer.Option(min=0, help="Damaged inputs.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of moments and damages.")] = 0,
    out: common.Out = common.OUT,
) -> None:
    """See above. OUT/faults.jsonl keeps what is done: run again, only the rest is."""
    torch.set_num_threads(1)
    ledger = Ledger(out / "faults.jsonl")
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(Path(folder), kills, inputs, seed):
            key = work_key(part=part.name, kills=kills, inputs=inputs, seed=seed)
            report = ledger.get(key)
            if report is None:
                report = {"part": part.name, **vars(part.work())}
                ledger.add(key, report)
            faults += len(report["faults"])
            counted = ", ".join(f"{key} {value}" for key, value in report.items() if key in ("kills", "ends"))
            typer.echo(f"{part.name}: {counted}" + "".join(f"\n  {fault}" for fault in report["faults"]))
    typer.echo(f"{faults} faults; {ledger.path} lists them.")
    if faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    common.run(main)
