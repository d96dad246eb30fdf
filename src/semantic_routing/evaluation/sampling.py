"""Images for a benchmark: the same ones for any number of processes, and after any interruption.

    OUT/
      sampling.json           how the images were made
      images/                 where the benchmark's `files` put them

Noise comes from a generator of its own for each image. The jobs are cut into batches once and for all, and processes
share the batches: an image is always made beside the same others, so that not even its rounding differs.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import track

from ..fusion.timestep_map import paper_shift
from ..io.files import JsonObject, write_json
from ..io.images import save_image
from ..io.tensors import weights_digest
from ..pipelines import SemanticRoutingPipeline
from ..pipelines.loading import load_pipeline
from .sampler import RECORD, Job, Sampler, image_seed, read_sampling


def sample_images(sampler: Sampler, jobs: Sequence[Job], out: Path) -> JsonObject:
    """Makes the images that are not there yet, and returns how all of them were made.

    Every process of an `accelerate launch` makes its share of the batches.

    Args:
        sampler: how.
        jobs: all images, those included that exist.
        out: folder of `sampling.json`.

    Raises:
        ValueError: the folder holds images that were made otherwise.
    """
    state = processes()
    batches = [jobs[start : start + sampler.batch_size] for start in range(0, len(jobs), sampler.batch_size)]
    pending = [batch for batch in batches if not all(job.path.is_file() for job in batch)]
    record = read_sampling(out)
    asked = {key: value for key, value in sampler.settings().items() if value is not None}
    _check_same(record, asked, out)
    state.wait_for_everyone()
    if not pending:
        return record
    pipeline = load_pipeline(sampler.pipeline, sampler.dtype, _device(sampler, state))
    pipeline.set_progress_bar_config(disable=True)
    if sampler.text_pool is not None:
        pipeline.use_text_pool(sampler.text_pool, list(dict.fromkeys(job.prompt for job in jobs)))
    sampler = with_defaults(sampler, pipeline)
    scheduler = json.loads(json.dumps(dict(pipeline.scheduler.config)))
    made = {**sampler.settings(), "weights": weights_digest(pipeline.transformer), "scheduler": scheduler}
    _check_same(record, made, out)
    if state.is_main_process:
        write_json(out / RECORD, made)
    mine = pending[state.process_index :: state.num_processes]
    for batch in track(mine, "sampling", console=Console(stderr=True), disable=not state.is_main_process):
        _make(pipeline, sampler, batch)
    state.wait_for_everyone()
    return made


def with_defaults(sampler: Sampler, pipeline: SemanticRoutingPipeline) -> Sampler:
    """The sampler with the pipeline's own steps and guidance scale where it names none."""
    own = {"steps": "default_num_inference_steps", "guidance": "default_guidance_scale"}
    missing = {name: pipeline.config[key] for name, key in own.items() if getattr(sampler, name) is None}
    return replace(sampler, **missing)


def _device(sampler: Sampler, state: PartialState) -> str | None:
    return str(state.device) if state.num_processes > 1 and sampler.device is None else sampler.device


def _check_same(record: JsonObject, wanted: JsonObject, out: Path) -> None:
    for key, value in wanted.items():
        # The pipeline's name may change, say with the working directory; its weights may not.
        if record and key != "pipeline" and record.get(key) != value:
            raise ValueError(
                f"{out} holds images made with {key} {record.get(key)!r}, but {value!r} is asked for; "
                "name another --out or remove the folder."
            )


def _make(pipeline: SemanticRoutingPipeline, sampler: Sampler, batch: Sequence[Job]) -> None:
    """Samples a batch and writes the images that are missing, each whole or not at all."""
    images = pipeline(
        [job.prompt for job in batch],
        negative_prompt=sampler.negative_prompt,
        height=sampler.size,
        width=sampler.size,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        timestep_map=paper_shift(sampler.gate_shift) if sampler.gate_shift else None,
        generator=[torch.Generator().manual_seed(image_seed(sampler, job)) for job in batch],
        return_dict=False,
    )[0]
    for job, image in zip(batch, images, strict=True):
        if not job.path.is_file():
            save_image(image, job.path)


def is_main_process() -> bool:
    """Whether this process is the one that scores and prints."""
    return bool(processes().is_main_process)


def processes() -> PartialState:
    """Which process this is, of how many."""
    # Without a word on the CPU, `accelerate` takes several processes without a GPU for so many strangers.
    return PartialState(cpu=not torch.accelerator.is_available())
