"""The tab Generate: a prompt in, pictures out, and all that this user has made before."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import gradio as gr

from .forms import (
    ONE_AT_A_TIME,
    PROGRESS,
    example_prompts,
    guidance_slider,
    images_slider,
    pipeline_choice,
    prompt_box,
    seed_box,
    sentences,
    steps_slider,
    steps_told,
)
from .html import Row, Shown, paragraph, rows_of_pictures
from .models import Models, OnStep
from .settings import MOST_CHARACTERS, MOST_PIXELS, Defaults, Settings
from .verdicts import mark, verdict

NOTHING_YET = paragraph("The pictures will be here.")
NOTHING_BEFORE = paragraph("Earlier pictures will be here.")
FORM = ("pipeline", "prompt", "negative_prompt", "seed", "images", "steps", "guidance", "size")
MOST_EARLIER = 12
"""Rows of the session's history; older ones are dropped."""


class Made(NamedTuple):
    """What one click made."""

    settings: Settings
    row: Row


def generate(models: Models, settings: Settings, on_step: OnStep | None = None) -> Made:
    """Makes pictures, each with its verdict where the prompt is one of Scenes, and with its settings in its file."""
    shown = []
    for number, image in enumerate(models.make(settings, on_step)):
        seed = settings.seed + number
        caption = " ".join(filter(None, [f"seed {seed}", mark(verdict(settings.prompt, image))]))
        text = f"{settings.prompt}, {caption}"
        shown.append(Shown(image, text, caption, file_name(settings.prompt, seed), settings.record(number, image)))
    return Made(settings, Row("", shown))


def file_name(prompt: str, seed: int) -> str:
    """The name under which a picture is saved."""
    words = "-".join("".join(each if each.isalnum() else " " for each in prompt.lower()).split())
    return f"{words[:60].strip('-') or 'picture'}-{seed}.png"


def title_of(settings: Settings) -> str:
    """What a row of the history was made with."""
    own = (f"seed {settings.seed}", f"{settings.steps} steps", f"guidance {settings.guidance:g}", settings.pipeline)
    parts = [settings.prompt, *own]
    if settings.negative_prompt:
        parts.insert(1, f"not {settings.negative_prompt}")
    return " · ".join(parts)


def remember(earlier: Sequence[Made], made: Made) -> list[Made]:
    """The history with the newest first."""
    return [made, *earlier][:MOST_EARLIER]


def history(earlier: Sequence[Made]) -> str:
    """The rows of the history."""
    rows = [Row(title_of(made.settings), made.row.pictures) for made in earlier]
    return rows_of_pictures(rows) if rows else NOTHING_BEFORE


def form_of(settings: Settings) -> list[object]:
    """What the form holds that asks for these settings, in the order of its fields."""
    values = asdict(settings)
    return [values[name] for name in FORM]


def add(models: Models, defaults: Defaults) -> None:
    """Puts the tab's parts into the page."""
    examples = example_prompts(models)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pipeline = pipeline_choice(models)
            prompt = prompt_box(examples[-1])
            button = gr.Button("Generate", variant="primary")
            gr.Examples([[example] for example in examples], prompt, label="Prompts to try")
            images, seed = images_slider(), seed_box()
            with gr.Accordion("More settings", open=False):
                negative = gr.Textbox("", label="Negative prompt", max_length=MOST_CHARACTERS)
                steps, guidance = steps_slider(defaults.steps), guidance_slider(defaults.guidance)
                # What is empty reaches us as 0.
                size = gr.Number(
                    0, label="Pixels a side (0 is the model's own)", precision=0, minimum=0, maximum=MOST_PIXELS
                )
        with gr.Column(scale=3, min_width=300):
            pictures = gr.HTML(NOTHING_YET, elem_id="pictures")
            with gr.Accordion("Made in this session"):
                again = gr.Dropdown([], label="Fill the form as it was for", interactive=True)
                before = gr.HTML(NOTHING_BEFORE, elem_id="history")
    earlier: gr.State = gr.State([])

    @sentences
    def run(
        pipeline: str, prompt: str, negative: str, seed: int, images: int, steps: int, guidance: float,
        size: int | None, earlier: list[Made], progress: gr.Progress = PROGRESS,
    ) -> tuple[str, list[Made], str, gr.Dropdown]:  # fmt: skip
        settings = Settings(prompt, pipeline, negative, seed, images, steps, guidance, size or None)
        made = generate(models, settings, steps_told(progress))
        now = remember(earlier, made)
        choices = [(title_of(each.settings), number) for number, each in enumerate(now)]
        return rows_of_pictures([made.row]), now, history(earlier), gr.Dropdown(choices, value=None)

    form = [pipeline, prompt, negative, seed, images, steps, guidance, size]
    gr.on(
        [button.click, prompt.submit],
        run,
        [*form, earlier],
        [pictures, earlier, before, again],
        api_name="generate",
        show_progress_on=pictures,
        **ONE_AT_A_TIME,
    )
    again.input(
        lambda number, earlier: form_of(earlier[number].settings),
        [again, earlier],
        form,
        api_visibility="private",
        show_progress="hidden",
    )
