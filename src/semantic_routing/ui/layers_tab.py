"""The tab Layers: which layers a model reads, what its blocks attend to, and pictures with layers turned up or down."""

from collections.abc import Sequence
from typing import NamedTuple

import gradio as gr
import numpy as np

from ..analysis import AnalysisOptions, Prompt, SavedModel
from ..analysis.prompt import MOST_TOKENS
from ..analysis.weights import DIVERGING, OCTAVES, octaves
from ..reporting.arrays import Coordinates, NamedArray
from ..reporting.figures import SEQUENTIAL
from .compare_tab import difference
from .forms import (
    ONE_AT_A_TIME,
    PROGRESS,
    example_prompts,
    pipeline_choice,
    prompt_box,
    seed_box,
    sentences,
    steps_told,
)
from .html import HeatMap, Row, Shown, heat_map, paragraph, rows_of_pictures
from .models import Models, OnStep
from .settings import Settings

UNIFORM = "White is the uniform weight 1/{layers}; blue is less, red is more."
MOST_GAIN = 4.0
NOT_YET = paragraph("Press “Look inside” to see which layers each block reads for the prompt, and its words.")


class Inside(NamedTuple):
    """What was seen of a model while it drew a prompt.

    Args:
        weights: fusion weights over layer, and over flow_time and block where they vary; None where there are none.
        attention: over flow_time, block and token.
        by_token: fusion weights over token and layer; None where all tokens have the same.
    """

    weights: NamedArray | None
    attention: NamedArray
    by_token: NamedArray | None


def look_inside(models: Models, settings: Settings) -> Inside:
    """Samples one picture and records what its blocks read.

    Raises:
        ValueError: the transformer has no fusion.
    """
    options = AnalysisOptions(
        prompts=(settings.prompt,), steps=settings.steps, guidance=settings.guidance, seed=settings.seed
    )
    with models.use(settings.pipeline) as pipeline:
        model = SavedModel(models.files(settings.pipeline), options)
        model.pipeline = pipeline
        if not Prompt.applies_to(model):
            raise ValueError(f"The tab Layers needs {Prompt.needs}; this model {model.fusion_sentence}.")
        arrays = Prompt().compute(model)
        attention = arrays.get("attention_of_words", arrays["attention"])
        return Inside(model.weights, attention, arrays.get("weights_by_token"))


def maps(inside: Inside, flow_time: float) -> str:
    """Heat maps at a flow time, 0 noise and 1 data."""
    parts = []
    if inside.weights is None:
        parts.append(paragraph("This fusion has no layer weights that could be shown."))
    else:
        parts.append(weight_map(inside.weights, flow_time))
    parts.append(attention_map(inside.attention, flow_time))
    if inside.by_token is not None:
        values, tokens = inside.by_token.values[:MOST_TOKENS], inside.by_token.axes["token"][:MOST_TOKENS]
        title = "Layers read for each word, a mean over blocks and steps"
        parts.append(_weights(title, values, words(tokens), inside.by_token.axes["layer"], "word \\ layer"))
    return "".join(parts)


def weight_map(weights: NamedArray, flow_time: float) -> str:
    """Fusion weights, a row a block, or one row for all."""
    layers, values = weights.axes["layer"], weights.values
    when = "the same at all times"
    if "flow_time" in weights.axes:
        time = nearest(weights, flow_time)
        values, when = weights.at(flow_time=time), f"at flow time {time:.2f}"
    blocks = weights.axes.get("block", ["all"])
    values = values.reshape(len(blocks), len(layers))
    return _weights(f"Fusion weights, {when}", values, blocks, layers, "block \\ layer")


def attention_map(attention: NamedArray, flow_time: float) -> str:
    """Attention to words, a row a block; one scale for all times."""
    time = nearest(attention, flow_time)
    values = attention.at(flow_time=time)[:, :MOST_TOKENS]
    high = float(attention.values[..., :MOST_TOKENS].max())
    title = f"Attention of each block to words, at flow time {time:.2f}"
    columns = words(attention.axes["token"][:MOST_TOKENS])
    note = "Shares of a block's attention, a mean over heads and picture; brighter is more."
    return heat_map(HeatMap(title, values, attention.axes["block"], columns, "block", SEQUENTIAL, 0.0, high, note=note))


def _weights(title: str, values: np.ndarray, rows: Coordinates, layers: Coordinates, corner: str) -> str:
    note = UNIFORM.format(layers=len(layers))
    scale = octaves(values)
    return heat_map(HeatMap(title, values, rows, layers, corner, DIVERGING, -OCTAVES, OCTAVES, scale, note))


def words(tokens: Sequence[object]) -> list[str]:
    """Tokens without their numbers."""
    return [str(token).partition(": ")[2] for token in tokens]


def nearest(array: NamedArray, flow_time: float) -> float:
    """The flow time of the array that is closest."""
    times = array.numbers("flow_time")
    return float(times[np.abs(times - flow_time).argmin()])


def gains_text(layers: Sequence[int], gains: Sequence[float]) -> str:
    """Gains as on the command line, without those that change nothing."""
    return ",".join(f"{layer}={gain:g}" for layer, gain in zip(layers, gains, strict=False) if gain != 1)


def with_gains(
    models: Models, pipeline: str, prompt: str, seed: int, gains: Sequence[float], on_step: OnStep | None = None
) -> str:
    """The picture as the model draws it beside the one with other gains, and what differs."""
    own, changed = models.defaults(pipeline), gains_text(models.layers(pipeline), gains)
    asked = [Settings(prompt, pipeline, "", seed, 1, *own, layer_gains=text) for text in ("", changed)]
    (plain,), (other,) = (models.make(settings, on_step) for settings in asked)
    captions = ["all gains 1", changed or "all gains 1", "difference"]
    pictures = zip([plain, other, difference(plain, other)], captions, strict=True)
    return rows_of_pictures([Row("", [Shown(image, f"{prompt}, {text}", text) for image, text in pictures])])


def add(models: Models) -> None:
    """Puts the tab's parts into the page."""
    most = max(len(models.layers(name)) for name in models.names)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pipeline = pipeline_choice(models)
            prompt = prompt_box(example_prompts(models)[-1])
            seed = seed_box()
            button = gr.Button("Look inside", variant="primary")
            gr.HTML(paragraph("Gain of each layer: 0 drops it, 1 leaves it, more makes it louder."))
            pictures = gr.HTML(elem_id="gained")
            with gr.Group():
                sliders = [
                    gr.Slider(0, MOST_GAIN, 1, step=0.25, **_slider(models, models.names[0], n)) for n in range(most)
                ]
            reset = gr.Button("All gains to 1")
        with gr.Column(scale=3, min_width=300):
            time = gr.Slider(0, 1, 0.5, step=0.05, label="Flow time (0 is noise, 1 is data)")
            shown = gr.HTML(NOT_YET, elem_id="maps")
    inside: gr.State = gr.State(None)

    @sentences
    def look(
        pipeline: str, prompt: str, seed: int, time: float, progress: gr.Progress = PROGRESS
    ) -> tuple[Inside, str]:
        progress(0, desc="Looking")
        found = look_inside(models, Settings(prompt, pipeline, "", seed, 1, *models.defaults(pipeline)))
        return found, maps(found, time)

    @sentences
    def draw(pipeline: str, prompt: str, seed: int, *gains: float, progress: gr.Progress = PROGRESS) -> str:
        return with_gains(models, pipeline, prompt, seed, gains, steps_told(progress))

    asked = [pipeline, prompt, seed]
    button.click(look, [*asked, time], [inside, shown], api_name="layers", show_progress_on=shown, **ONE_AT_A_TIME)
    time.input(
        lambda inside, time: NOT_YET if inside is None else maps(inside, time),
        [inside, time],
        shown,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    # Of the moves while a picture is made, only the last is drawn.
    moved = [slider.input for slider in sliders]
    gr.on(moved, draw, [*asked, *sliders], pictures, api_name="gains", trigger_mode="always_last", **ONE_AT_A_TIME)
    reset.click(
        lambda: [*[1.0] * most, ""], outputs=[*sliders, pictures], api_visibility="private", show_progress="hidden"
    )
    pipeline.change(
        lambda name: [None, NOT_YET, *(gr.Slider(value=1, **_slider(models, name, number)) for number in range(most))],
        pipeline,
        [inside, shown, *sliders],
        api_visibility="private",
        show_progress="hidden",
    )


def _slider(models: Models, name: str, number: int) -> dict[str, object]:
    """Label of slider `number`, which is hidden where the pipeline has fewer layers."""
    layers = models.layers(name)
    return {"label": f"Layer {layers[number]}" if number < len(layers) else "", "visible": number < len(layers)}
