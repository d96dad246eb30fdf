"""Images for a benchmark: the same ones for any number of processes, and after any interruption.

    OUT/
      sampling.json           how the images were made
      images/                 the benchmark's own layout

Noise comes from a generator of its own for each image. The jobs are cut into batches once and for all, and processes
share the batches: an image is always made beside the same others, so that not even its rounding differs.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import track

from ..fusion.timestep_map import paper_shift
from ..io.files import write_text
from ..io.images import save_image
from ..pipelines import SemanticRoutingPipeline
from ..pipelines.loading import load_pipeline

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Sampler:
    """How images are made.

    Args:
        pipeline: folder or hub name; None is the demo model.
        steps: Euler steps.
        guidance: classifier-free guidance scale.
        images_per_prompt: images of each prompt.
        seed: image i of prompt p starts from noise of (seed, p, i).
        same_noise: or from noise of (seed, i) whatever the prompt, as other samplers do.
        size: pixels a side; None is the model's.
        negative_prompt: what guidance moves away from.
        batch_size: images at a time.
        dtype: of the weights.
        device: None is cuda where there is one, and with several processes each one's own.
        gate_advance: amplitude by which the gate runs ahead of the backbone, in flow time; see `paper_shift`.
    """

    pipeline: str | None = None
    steps: int = 50
    guidance: float = 6.0
    images_per_prompt: int = 4
    seed: int = 42
    same_noise: bool = False
    size: int | None = None
    negative_prompt: str | None = None
    batch_size: int = 32
    dtype: Dtype = "float32"
    device: str | None = None
    gate_advance: float = 0.0

    def settings(self) -> dict[str, Any]:
        """What decides about the images."""
        return {key: value for key, value in asdict(self).items() if key not in ("batch_size", "device")}


class Job(NamedTuple):
    """One image: `prompt_index` and `sample_index` choose its noise."""

    path: Path
    prompt: str
    prompt_index: int
    sample_index: int


def image_seed(sampler: Sampler, job: Job) -> int:
    """The seed of an image's noise: non-negative, 63 bits."""
    place = [job.sample_index] if sampler.same_noise else [job.prompt_index, job.sample_index]
    return int(np.random.SeedSequence([sampler.seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def sample_images(sampler: Sampler, jobs: Sequence[Job], out: Path) -> dict[str, Any]:
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
    _check_same(record, sampler.settings(), out)
    state.wait_for_everyone()
    if not pending:
        return record
    pipeline = load_pipeline(sampler.pipeline, sampler.dtype, _device(sampler, state))
    pipeline.set_progress_bar_config(disable=True)
    made = {**sampler.settings(), "weights": weights_hash(pipeline), "scheduler": dict(pipeline.scheduler.config)}
    made = json.loads(json.dumps(made))
    _check_same(record, made, out)
    if state.is_main_process:
        write_text(out / "sampling.json", json.dumps(made, indent=1))
    mine = pending[state.process_index :: state.num_processes]
    for batch in track(mine, "sampling", console=Console(stderr=True), disable=not state.is_main_process):
        _make(pipeline, sampler, batch)
    state.wait_for_everyone()
    return made


def read_sampling(out: Path) -> dict[str, Any]:
    """What `sampling.json` says; nothing where there is none."""
    path = out / "sampling.json"
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def weights_hash(pipeline: SemanticRoutingPipeline) -> str:
    """SHA-256 of the transformer's weights, by name and in the type that they are used in."""
    digest = sha256()
    for name, tensor in sorted(pipeline.transformer.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _device(sampler: Sampler, state: PartialState) -> str | None:
    return str(state.device) if state.num_processes > 1 and sampler.device is None else sampler.device


def _check_same(record: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
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
        timestep_map=paper_shift(sampler.gate_advance) if sampler.gate_advance else None,
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
