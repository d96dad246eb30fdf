"""The tab Compare: pipelines, or settings of one, on the same prompt and noise."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from .forms import (
    ONE_AT_A_TIME,
    PROGRESS,
    example_prompts,
    gains_box,
    guidance_slider,
    images_slider,
    prompt_box,
    scale_slider,
    seed_box,
    sentences,
    steps_slider,
    steps_told,
)
from .html import Row, Shown, paragraph, rows_of_pictures, table
from .models import Models, OnStep
from .settings import Defaults, Settings
from .verdicts import false_caption_costs, information_table, mark, verdict, verdict_table

SIDES = "ABC"
NONE = "none"
LOUDER = 2
"""Differences are drawn so many times as bright."""
VISIBLE = 16
"""Of 255, in a difference as it is drawn."""
NOT_MEASURED = paragraph("What false captions cost can be measured for prompts of Scenes that have such captions.")
EXPLAINED = paragraph(
    "Choose what differs between the sides: the pipeline, the gains of layers, the fusion scale (1 as trained, 0 the "
    "plain mean of layers, more exaggerates), or the guidance. All sides start from the same noise."
)


class Side(NamedTuple):
    """What differs between the sides of a comparison."""

    pipeline: str
    layer_gains: str
    guidance: float
    fusion_scale: float = 1.0

    def title(self, letter: str) -> str:
        """How the side is called above its pictures."""
        gains = f" · layers {self.layer_gains}" if self.layer_gains.strip() else ""
        scale = "" if self.fusion_scale == 1 else f" · fusion scale {self.fusion_scale:g}"
        return f"{letter}: {self.pipeline} · guidance {self.guidance:g}{gains}{scale}"


def compare(
    models: Models,
    prompt: str,
    sides: Sequence[Side],
    seed: int = 0,
    images: int = 4,
    steps: int = 50,
    information: bool = False,
    on_step: OnStep | None = None,
) -> str:
    """Pictures of each side in a row, what differs from the first side, and how often each claim of a scene holds.

    Args:
        models: the pipelines.
        prompt: the same for all.
        sides: two or more.
        seed: of the noise, the same for all.
        images: of each side.
        steps: the same for all.
        information: also measure what false captions cost each pipeline.
        on_step: told of the steps of all sides.

    Raises:
        ValueError: fewer than two sides, or settings that cannot be sampled.
    """
    if len(sides) < 2:
        raise ValueError(f"A comparison needs two sides or more, but {len(sides)} has a pipeline.")
    settings = [
        Settings(
            prompt, side.pipeline, "", seed, images, steps, side.guidance, None, side.layer_gains, side.fusion_scale
        )
        for side in sides
    ]
    made: dict[str, list[Image.Image]] = {}
    for number, (letter, chosen) in enumerate(zip(SIDES, settings, strict=False)):

        def told(step: int, total: int, before: int = number) -> None:
            if on_step is not None:
                on_step(before * total + step, len(settings) * total)

        made[letter] = models.make(chosen, told)
    parts = [rows_of_pictures(_rows(prompt, dict(zip(made, sides, strict=False)), settings, made))]
    verdicts = verdict_table(prompt, made)
    parts += [] if verdicts is None else [table(verdicts)]
    return "".join(parts + ([_information(models, prompt, sides)] if information else []))


def difference(first: Image.Image, second: Image.Image) -> Image.Image:
    """`LOUDER` times the absolute difference, black where both are the same; the larger is shrunk to the smaller."""
    size = min(first.size, second.size)
    a, b = (np.asarray(each.convert("RGB").resize(size), dtype=np.int16) for each in (first, second))
    return Image.fromarray(np.minimum(LOUDER * np.abs(a - b), 255).astype(np.uint8))


def _rows(
    prompt: str, sides: Mapping[str, Side], settings: Sequence[Settings], made: Mapping[str, Sequence[Image.Image]]
) -> list[Row]:
    rows = []
    for (letter, side), chosen in zip(sides.items(), settings, strict=True):
        shown = []
        for number, image in enumerate(made[letter]):
            caption = " ".join(filter(None, [f"seed {chosen.seed + number}", mark(verdict(prompt, image))]))
            name = f"{letter}-{chosen.seed + number}.png"
            shown.append(
                Shown(image, f"{prompt}, side {letter}, {caption}", caption, name, chosen.record(number, image))
            )
        rows.append(Row(side.title(letter), shown))
    for letter, others in list(made.items())[1:]:
        differences = [difference(one, other) for one, other in zip(made["A"], others, strict=True)]
        text = f"difference of {letter} and A"
        shown = [Shown(picture, text, f"{_changed(picture):.0%} of pixels differ") for picture in differences]
        rows.append(Row(f"Difference of {letter} and A, {LOUDER} times as bright", shown))
    return rows


def _changed(picture: Image.Image) -> float:
    """The share of pixels in which a difference can be seen."""
    return float((np.asarray(picture).max(axis=-1) > VISIBLE).mean())


def _information(models: Models, prompt: str, sides: Sequence[Side]) -> str:
    """What false captions cost each pipeline, with all gains at 1."""
    costs = {}
    for name in dict.fromkeys(side.pipeline for side in sides):
        with models.use(name) as pipeline:
            costs[name] = false_caption_costs(pipeline, prompt)
    measured = information_table(costs)
    return NOT_MEASURED if measured is None else table(measured)


def add(models: Models, defaults: Defaults) -> None:
    """Puts the tab's parts into the page."""
    names = models.names
    gr.HTML(EXPLAINED)
    prompt = prompt_box(example_prompts(models)[-1])
    chosen = [names[0], names[1 % len(names)], NONE]
    sides: list[gr.components.Component] = []
    with gr.Row():
        for letter, name in zip(SIDES, chosen, strict=True):
            with gr.Column(min_width=240), gr.Group():
                offered = names if letter in SIDES[:2] else [NONE, *names]
                pipeline = gr.Dropdown(offered, value=name, label=f"{letter}: pipeline")
                gains = gains_box(f"{letter}: layer gains")
                scale = scale_slider(f"{letter}: fusion scale (1 as trained)")
                sides += [pipeline, gains, guidance_slider(defaults.guidance, f"{letter}: guidance (1 is none)"), scale]
    with gr.Row():
        images, steps, seed = images_slider(), steps_slider(defaults.steps), seed_box()
    information = gr.Checkbox(label="Measure what false captions cost (prompts of Scenes)")
    button = gr.Button("Compare", variant="primary")
    result = gr.HTML(elem_id="comparison")

    @sentences
    def run(
        prompt: str, seed: int, images: int, steps: int, information: bool,
        *values: Any, progress: gr.Progress = PROGRESS,
    ) -> str:  # fmt: skip
        width = len(Side._fields)
        given = [Side(*values[start : start + width]) for start in range(0, len(values), width)]
        asked = [side for side in given if side.pipeline != NONE]
        return compare(models, prompt, asked, seed, images, steps, information, steps_told(progress))

    inputs = [prompt, seed, images, steps, information, *sides]
    button.click(run, inputs, result, api_name="compare", **ONE_AT_A_TIME)
