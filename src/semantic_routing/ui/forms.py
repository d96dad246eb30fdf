"""What several tabs have: how mistakes are told, one queue for all computing, and the controls of sampling."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gradio as gr

from ..evaluation.scenes import choose_prompts
from ..io.messages import sentence_of
from ..scenes import SKILLS
from .html import escaped
from .models import Models
from .settings import MOST_CHARACTERS, MOST_FUSION_SCALE, MOST_GUIDANCE, MOST_IMAGES, MOST_SEED, MOST_STEPS

ONE_AT_A_TIME = {"concurrency_id": "computing", "concurrency_limit": 1}
"""Of events that compute: all users and tabs wait in one line for the machine."""
EXAMPLES = 6

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
PROGRESS = gr.Progress()
"""As a default value it makes gradio pass the tracker of the call."""


def sentences(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A user's mistake appears in the page as the sentence that the command line prints, until it is closed."""

    @functools.wraps(function)
    def told(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except (ValueError, OSError) as error:
            raise gr.Error(escaped(sentence_of(error)), duration=None, print_exception=False) from error

    return told


def example_prompts(models: Models) -> list[str]:
    """Prompts of Scenes, one a skill, of skills that the first pipeline was trained on where that is known."""
    skills = (models.trained_skills(models.names[0]) or SKILLS)[:EXAMPLES]
    return [choose_prompts([skill])[0].prompt for skill in skills]


def pipeline_choice(models: Models) -> gr.Dropdown:
    """Which pipeline; hidden where there is one."""
    return gr.Dropdown(models.names, value=models.names[0], label="Pipeline", visible=len(models.names) > 1)


def prompt_box(prompt: str) -> gr.Textbox:
    """Where the prompt is typed."""
    return gr.Textbox(prompt, label="Prompt", lines=2, max_length=MOST_CHARACTERS, elem_classes="sr-prompt")


def seed_box() -> gr.Number:
    """The seed."""
    return gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED, min_width=100)


def images_slider() -> gr.Slider:
    """How many pictures."""
    return gr.Slider(1, MOST_IMAGES, 4, step=1, precision=0, label="Images")


def steps_slider(steps: int) -> gr.Slider:
    """Steps of the scheduler."""
    return gr.Slider(1, MOST_STEPS, steps, step=1, precision=0, label="Steps")


def guidance_slider(guidance: float, label: str = "Guidance (1 is none)") -> gr.Slider:
    """Scale of classifier-free guidance."""
    return gr.Slider(0, MOST_GUIDANCE, guidance, step=0.5, label=label)


def scale_slider(label: str) -> gr.Slider:
    """How far fusion weights lie from the plain mean of layers."""
    return gr.Slider(0, MOST_FUSION_SCALE, 1, step=0.25, label=label)


def gains_box(label: str) -> gr.Textbox:
    """Factors of layers as on the command line."""
    return gr.Textbox("", label=label, placeholder="3=0,5=2 or all=0,5=1", max_length=MOST_CHARACTERS)


def steps_told(progress: gr.Progress, what: str = "Sampling") -> Callable[[int, int], None]:
    """Shows steps in a progress bar."""
    return lambda step, total: progress((step, total), desc=what)
