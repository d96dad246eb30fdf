"""What the detector of the embedded world says of pictures, and what captions tell, where a prompt is one of Scenes."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..evaluation.captioned import CaptionedPicture, as_pixels
from ..evaluation.information import HEARD_BAND, LOG_SNR, integrate
from ..evaluation.scenes import ALL_SKILLS, skill_samples
from ..reporting.figures import signed
from ..reporting.table import Table
from ..scenes import SceneSample, edits, judge, render

if TYPE_CHECKING:
    from ..pipelines import SemanticRoutingPipeline

DRAWS = 16
"""Noises over which the cost of a false caption is averaged."""

Costs = NDArray[np.float64]
"""Of a false caption, one for each noise."""


@cache
def _by_caption(skill: str) -> dict[str, SceneSample]:
    return {sample.caption.casefold(): sample for sample in skill_samples(skill)}


def scene_of(prompt: str) -> SceneSample | None:
    """The sample of Scenes whose caption the prompt is; None for all other prompts."""
    caption = " ".join(prompt.split()).casefold()
    # Skill by skill, because the hard ones come last and take seconds.
    return next(filter(None, (_by_caption(skill).get(caption) for skill in ALL_SKILLS)), None)


def verdict(prompt: str, image: Image.Image) -> bool | None:
    """Whether a picture shows all that its prompt claims; None where that cannot be judged."""
    sample = scene_of(prompt)
    return None if sample is None else all(judge(np.asarray(image), sample.claims))


def mark(right: bool | None) -> str:
    """A verdict in a caption."""
    return "" if right is None else "✓ right" if right else "✗ wrong"


def verdict_table(prompt: str, sides: Mapping[str, Sequence[Image.Image]]) -> Table | None:
    """A row a claim, a column a side: in how many pictures the claim holds. None for prompts that are not of Scenes."""
    sample = scene_of(prompt)
    if sample is None:
        return None
    judged = {side: [judge(np.asarray(image), sample.claims) for image in images] for side, images in sides.items()}
    rows = []
    for number, claim in enumerate(sample.claims):
        found = [sum(each[number] for each in of_side) for of_side in judged.values()]
        rows.append([str(claim), *(f"{count} of {len(of)}" for count, of in zip(found, judged.values(), strict=True))])
    right = [f"{sum(map(all, of_side))} of {len(of_side)}" for of_side in judged.values()]
    caption = "Pictures in which the detector finds each claim of the prompt."
    return Table(["Claim", *sides], [*rows, ["all claims", *right]], caption)


def false_caption_costs(pipeline: "SemanticRoutingPipeline", prompt: str) -> dict[str, Costs]:
    """How many nats more each false caption costs than the prompt; none for prompts that are not of Scenes.

    A picture of the prompt is denoised from `DRAWS` noises, with the prompt and with minimal edits of it, see
    `evaluation.information`.
    """
    from ..evaluation.information_run import HEARD, measure  # imports diffusers

    sample = scene_of(prompt)
    false = {} if sample is None else {edit.kind: edit.caption for edit in edits(sample)}
    if sample is None or not false:
        return {}
    size = pipeline.transformer.config.sample_size * pipeline.codec.downsampling
    pixels = as_pixels(render(sample.scene, size))
    pictures = [CaptionedPicture(f"draw {draw}", sample.skill, pixels, sample.caption, false) for draw in range(DRAWS)]
    found = list(measure(pipeline, pictures, unconditional=False))
    costs = {}
    for kind, text in false.items():
        curves = np.stack([measured.curves[f"{HEARD}: {kind}"] for measured in found])
        costs[f"{kind}: {text}"] = integrate(curves, LOG_SNR, HEARD_BAND)
    return costs


def information_table(costs: Mapping[str, Mapping[str, Costs]]) -> Table | None:
    """Means of `false_caption_costs` by pipeline, a row a false caption; None where there is none."""
    captions = list(next(iter(costs.values())))
    rows = [[caption, *(_mean(of[caption]) for of in costs.values())] for caption in captions]
    explained = (
        f"Nats that a false caption costs more than the prompt, on one picture: the mean over {DRAWS} noises and its "
        "standard error. Near 0 the change is not heard."
    )
    return Table(["Instead of the prompt", *costs], rows, explained) if rows else None


def _mean(costs: Costs) -> str:
    return f"{signed(float(costs.mean()), 1)} ± {costs.std(ddof=1) / len(costs) ** 0.5:.1f}"
