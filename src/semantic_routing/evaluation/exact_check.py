"""A pipeline's estimates of text information beside the exact values, on captions of one object.

All pictures of "a red circle" can be listed, as can those of "a circle". What the color's word tells, and what tells it
from another color or shape, is then known exactly. What no caption leaves open is known as well: the training stream's
pictures of one object are listed, and its others, which are far from them, are sampled.
"""

from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np
import torch

from ..pipelines.loading import load_pipeline
from ..pipelines.saved import PipelineFiles, find_pipeline
from ..reporting.table import Table
from ..scenes import COLORS, SHAPES, SKILLS, Description, render, sample_scene
from ..scenes.grammar import Plan
from ..scenes.held_out import HELD_OUT
from ..scenes.pictures import Weighted, all_pictures
from ..scenes.words import with_article
from .captioned import as_pixels
from .exact import Candidates, candidates, exact_denoiser
from .information import (
    HEARD_BAND,
    LOG_SNR,
    NO_CAPTION,
    Denoiser,
    Subject,
    integrate,
    nats_per_log_snr,
    pipeline_denoiser,
    squared_errors,
)

DRAWN = 20_000
"""Samples of the training stream that stand for its pictures without a caption."""
_SEED = 16180

WHAT = ("cost", "information", "told by the color", "heard: color", "heard: shape")
"""Of "a red circle": its cost; what it tells more than nothing, more than "a circle"; false color, false shape."""


class Named(NamedTuple):
    """An object by shape and perhaps color."""

    shape: str
    color: str | None = None

    @property
    def caption(self) -> str:
        """Its caption."""
        return with_article(f"{self.color} {self.shape}" if self.color else self.shape)

    @property
    def pictures(self) -> list[Weighted]:
        """All its pictures."""
        return _pictures(self)


@cache
def _pictures(named: Named) -> list[Weighted]:
    return all_pictures(Plan((Description(named.shape, named.color),), named.caption, ()))


TRAINED = [Named(shape, color) for shape in SHAPES for color in COLORS if ("color", color, shape) not in HELD_OUT]
"""The objects that training speaks of and shows."""


def check(pipeline: str, count: int, seed: int = 0, device: str | None = None, batch_size: int = 16) -> Table:
    """Exact values and a pipeline's, in nats, with the standard error of their paired difference.

    Args:
        pipeline: trained on scenes of `spacing: 4`.
        count: pictures.
        seed: of pictures and noise.
        device: where the pipeline computes; None is cuda where there is one.
        batch_size: pictures at a time.

    Raises:
        ValueError: the pipeline was trained on something else.
    """
    files = find_pipeline(pipeline)
    size = int(files.transformer["sample_size"])
    nothing = without_caption(files, size)
    loaded = load_pipeline(str(files.folder), device=device)
    by_caption = {named.caption: named for named in (*TRAINED, *(Named(shape) for shape in SHAPES))}

    @cache
    def of_caption(caption: str) -> Candidates:
        return nothing if caption == NO_CAPTION else candidates(by_caption[caption].pictures, size)

    subjects = draw_subjects(count, size, seed)
    exact, estimated = (
        measured(denoiser, subjects, seed, batch_size)
        for denoiser in (exact_denoiser(of_caption), pipeline_denoiser(loaded))
    )
    rows = [[f"log γ {point:g}", *_cells(exact[..., i], estimated[..., i])] for i, point in enumerate(LOG_SNR)]
    for band in ((LOG_SNR[0], LOG_SNR[-1]), HEARD_BAND):
        sums = (integrate(values, LOG_SNR, band) for values in (exact, estimated))
        rows.append([f"sum {band[0]:g} to {band[1]:g}", *_cells(*sums)])
    caption = (
        f"Nats (per unit of log γ, and sums), exact → estimated ± standard error of the difference; {count} pictures."
    )
    return Table(["", *WHAT], rows, caption, "Estimates beside exact values")


def draw_subjects(count: int, size: int, seed: int) -> list[Subject]:
    """Pictures of one object with its caption and those to compare it with."""
    random, subjects = Random(f"{_SEED} {seed}"), []
    for number in range(count):
        named = random.choice(TRAINED)
        scenes, chances = zip(*named.pictures, strict=True)
        color = random.choice([other for other in TRAINED if other.shape == named.shape and other != named])
        shape = random.choice([other for other in TRAINED if other.color == named.color and other != named])
        captions = [named.caption, NO_CAPTION, Named(named.shape).caption, color.caption, shape.caption]
        picture = as_pixels(render(random.choices(scenes, chances)[0], size))
        subjects.append(Subject(f"exact {number}", picture, captions))
    return subjects


def measured(denoiser: Denoiser, subjects: list[Subject], seed: int, batch_size: int) -> np.ndarray:
    """`WHAT` of each subject over log γ: subjects, quantities, points."""
    batches = [subjects[start : start + batch_size] for start in range(0, len(subjects), batch_size)]
    errors = np.concatenate([squared_errors(denoiser, batch, seed) for batch in batches])
    curves = nats_per_log_snr(errors).reshape(len(subjects), len(WHAT), len(LOG_SNR))
    return np.concatenate([curves[:, :1], curves[:, 1:] - curves[:, :1]], axis=1)


def without_caption(files: PipelineFiles, size: int) -> Candidates:
    """The pictures of the training stream: those of one object as a list, the others as samples.

    Raises:
        ValueError: the pipeline was not trained on scenes whose centers lie on every fourth line.
    """
    source = (files.training_data or {}).get("source", {})
    if source.get("source") != "scenes" or source.get("spacing") != 4:
        raise ValueError(
            f"Exact values are known for models of scenes with spacing 4, and {files.name} is of {source}."
        )
    # Before there was a crowd's spacing, `spacing` was everyone's.
    spacing = (source["spacing"], source.get("crowd_spacing", source["spacing"]))
    skills = source.get("skills") or SKILLS
    scenes = [sample_scene(_SEED, index, "train", skills, *spacing).scene for index in range(DRAWN)]
    crowds = [scene for scene in scenes if len(scene.objects) > 1]
    alone = 1 - len(crowds) / DRAWN
    listed = [Weighted(scene, chance * alone / len(TRAINED)) for named in TRAINED for scene, chance in named.pictures]
    return candidates([*listed, *(Weighted(scene, 1 / DRAWN) for scene in crowds)], size, torch.float32)


def _cells(exact: np.ndarray, estimated: np.ndarray) -> list[str]:
    """Means over subjects, and the standard error of their difference."""
    errors = (estimated - exact).std(axis=0, ddof=1) / len(exact) ** 0.5
    means = zip(exact.mean(0), estimated.mean(0), errors, strict=True)
    return [f"{one:.3f} → {other:.3f} ± {error:.3f}" for one, other, error in means]
