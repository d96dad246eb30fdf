"""How a benchmark's images are made: the settings, and the noise of each image. No model code."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from typer import Option

from ..io.files import JsonObject, read_json_object

RECORD = "sampling.json"
"""How a folder's images were made."""

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Sampler:
    """How images are made. Fields that are annotated with an `Option` are options of `sroute evaluate` too.

    Args:
        pipeline: folder or hub name; None is the demo model.
        images_per_prompt: images of each prompt.
        steps: of the scheduler; None is the pipeline's own number.
        guidance: classifier-free guidance scale; None is the pipeline's own.
        seed: image i of prompt p starts from noise of (seed, p, i).
        same_noise: or from noise of (seed, i) whatever the prompt, as other samplers do.
        size: pixels a side; None is the model's.
        batch_size: images at a time.
        dtype: of the weights.
        device: None is cuda where there is one, and with several processes each one's own.
        negative_prompt: what guidance moves away from.
        gate_shift: amplitude of the shift of the time that the fusion sees (paper, eq. 11); 0 is no shift.
        text_pool: folder that keeps features of the prompts, for pipelines that read the same; None keeps none.
    """

    pipeline: Annotated[str | None, Option(help="Pipeline folder or hub name; default: the demo model.")] = None
    images_per_prompt: Annotated[int, Option(min=1, help="Images of each prompt.")] = 4
    steps: Annotated[int | None, Option(min=1, help="Euler steps; default: the pipeline's own number.")] = None
    guidance: Annotated[
        float | None, Option(min=0, help="Classifier-free guidance scale, 1 is none; default: the pipeline's own.")
    ] = None
    seed: Annotated[int, Option(min=0, help="Image i of prompt p starts from noise of (seed, p, i).")] = 42
    same_noise: Annotated[bool, Option("--same-noise", help="Image i of every prompt starts from the same noise.")] = (
        False
    )
    size: Annotated[int | None, Option(min=1, help="Pixels a side; default: the model's.")] = None
    batch_size: Annotated[int, Option(min=1, help="Images sampled at a time.")] = 16
    dtype: Annotated[Dtype, Option(help="Type of the weights.")] = "float32"
    device: Annotated[str | None, Option(help="Where to sample, such as cuda:1. Default: cuda where there is one.")] = (
        None
    )
    negative_prompt: str | None = None
    gate_shift: float = 0.0
    text_pool: Path | None = None

    def settings(self) -> JsonObject:
        """What decides about the images, as it is read back from JSON."""
        left_out = ("batch_size", "device", "text_pool")
        values = {key: value for key, value in asdict(self).items() if key not in left_out}
        return json.loads(json.dumps(values))


class Job(NamedTuple):
    """One image to make: `prompt_index` and `sample_index` choose its noise."""

    path: Path
    prompt: str
    prompt_index: int
    sample_index: int


def image_seed(sampler: Sampler, job: Job) -> int:
    """The seed of an image's noise: non-negative, 63 bits."""
    place = [job.sample_index] if sampler.same_noise else [job.prompt_index, job.sample_index]
    return int(np.random.SeedSequence([sampler.seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def read_sampling(out: Path) -> JsonObject:
    """What `sampling.json` says; nothing where there is none."""
    return read_json_object(out / RECORD) if (out / RECORD).is_file() else {}
