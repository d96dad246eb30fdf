"""Kills and damaged inputs: nothing may be lost, and nothing may end in a traceback, hang or be taken for whole.

Training, in one process and in two, `export` and `precompute` are killed and terminated at random moments, while they
save above all, and go on; each must end bit for bit as if it had not been interrupted. Configs, records, images,
checkpoints and pipelines are damaged at random and read. All of it is repeated by its seed. Wanted is 0 of everything.
"""

import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from PIL import Image

from semantic_routing.io.files import write_json
from semantic_routing.io.jsonl import write_lines
from semantic_routing.models.tiny_vae import tiny_vae
from semantic_routing.text.tiny import TINY_MODELS, write_tiny_model
from semantic_routing.training import train
from semantic_routing.training.config import Config, load_config
from semantic_routing.training.export import export_pipeline

from . import common
from .fault_inputs import KINDS, InputReport, Samples, fuzz
from .fault_kills import KillReport, export_job, interrupt, precompute_job, training_job

IMAGES = 12


def make_samples(folder: Path) -> tuple[Samples, Config]:
    """Tiny models and images, a run of two steps and its pipeline; and the config of runs that are interrupted."""
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
    in_child(lambda: train(load_config(str(path), ["training.steps=2"])))
    checkpoint = config.training.output / "checkpoint-00000002"
    in_child(lambda: export_pipeline(checkpoint, folder / "pipeline"))
    return Samples(path, folder / "records.jsonl", checkpoint, folder / "pipeline"), config


def _config_values(folder: Path) -> dict[str, Any]:
    model = {"strategy": "joint", "num_blocks": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"attention_head_dim": 8, "hidden_size": 32, "patch_size": 4, "timestep_conditioning": "adaln-zero"}
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


def search(folder: Path, kills: int, inputs: int, seed: int) -> tuple[list[KillReport], list[InputReport]]:
    """All interruptions and all damaged inputs.

    Args:
        folder: an empty one for everything that is made.
        kills: interruptions of training in one process, and of the other jobs together.
        inputs: damaged ones, shared by all kinds; pipelines, which take longest, get a tenth.
        seed: of all of it.
    """
    samples, config = make_samples(folder)
    jobs = [training_job(config)] if kills else []
    jobs += [training_job(config, 2), export_job(samples.checkpoint), precompute_job(config)] if kills > 2 else []
    killed = []
    for number, job in enumerate(jobs):
        share = kills if number == 0 else -(-kills // (len(jobs) - 1))
        killed.append(interrupt(job, folder / f"job-{number}", share, np.random.default_rng([seed, number])))
        typer.echo(
            f"{job.name}: {killed[-1].kills} interruptions, {killed[-1].ends} ends, {killed[-1].faults or 'whole'}"
        )
    damaged = []
    for kind in KINDS:
        count = inputs // 10 if kind == "pipelines" else (inputs - inputs // 10) // (len(KINDS) - 1)
        damaged.append(fuzz(kind, samples, folder / "damaged" / kind, range(count), seed))
        typer.echo(f"{kind}: {dict(damaged[-1].ends)}" + "".join(f"\n  {fault}" for fault in damaged[-1].faults))
    return killed, damaged


def main(
    kills: Annotated[int, typer.Option(min=0, help="Of training, and as many of the other jobs.")] = 200,
    inputs: Annotated[int, typer.Option(min=0, help="Damaged inputs.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of moments and damages.")] = 0,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        killed, damaged = search(Path(folder), kills, inputs, seed)
    reports = [vars(report) for report in (*killed, *damaged)]
    write_json(out / "faults.json", {"kills": kills, "inputs": inputs, "seed": seed, "reports": reports})
    faults = sum(len(report.faults) for report in killed) + sum(len(report.faults) for report in damaged)
    typer.echo(f"{faults} kinds of faults; {out / 'faults.json'} lists them.")
    if faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    common.run(main)
