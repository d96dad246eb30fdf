"""A step of sampling with each fusion against one with `penultimate`: wanted is at most 1.00 × the time for a fusion
that varies with neither timestep nor state, 1.02 × for one that varies with the timestep, and 1.05 × with the state.

All pipelines share one DiT and one random Qwen3 language model, and make the same guided image in turns. Steps are
timed from the end of the first one, which also makes what serves them all, to the end of the last. What ignores
timestep and state is made once a prompt, so that steps are the same. What varies with them is made anew in each step:
the mixture of layers and, from it, context, keys and values of the prompt's real tokens; once for all blocks
(`time-wise`) or for each. What is done once a prompt is counted and not timed: it is the language model, which runs one
layer further for a fusion that reads the last one, and the fusion's own work, of which `layer-attention` has the most.
"""

import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from semantic_routing.fusion import FUSIONS
from semantic_routing.models.flops import count_language_model, count_prompt_and_step
from semantic_routing.pipelines.replace import with_strategy
from semantic_routing.text.depth import shorten

from . import common
from .models import Sizes, caption, guided, make_pipeline
from .report import Report, Row

BASELINE = "penultimate"


def wanted(strategy: str) -> str:
    """The most time that it may take, over that of the baseline."""
    varies = FUSIONS[strategy].varies_with
    return "≤ 1.05" if "state" in varies else "≤ 1.02" if "timestep" in varies else "≤ 1.00"


def compare(
    sizes: Sizes, strategies: Sequence[str], tokens: int, steps: int, rounds: int, device: torch.device
) -> Report:
    """Times of a guided step over those of `penultimate`."""
    dtype = common.fast_dtype()
    base = make_pipeline(sizes, "joint", device, dtype)
    pipelines = {name: with_strategy(base, name) for name in (BASELINE, *strategies)}
    noise = torch.randn(1, sizes.latent_channels, sizes.latent_size, sizes.latent_size)
    prompt = caption(tokens)
    sides = {}
    for name, pipeline in pipelines.items():
        pipeline.set_progress_bar_config(disable=True)
        sides[name] = partial(pipeline, prompt, num_inference_steps=steps, latents=noise, output_type="latent")
    seconds = common.alternate(sides, rounds, device, step_seconds)
    faults = {name: page_faults(sample) for name, sample in sides.items()}
    flops = {name: count_flops(pipeline, tokens) for name, pipeline in pipelines.items()}
    rows = [
        Row(
            f"a step of sampling, `{name}` against `{BASELINE}`: time",
            wanted(name),
            common.ratios(seconds[name], seconds[BASELINE]),
            flops[name][1] / flops[BASELINE][1],
        )
        for name in strategies
    ]
    notes = [
        f"One guided image in {steps} steps, prompt of {tokens} tokens, {common.name_of(dtype)}, no autoencoder (the "
        "same for all).",
        f"Pages of memory that the steps waited for: {', '.join(f'{name} {n}' for name, n in faults.items())}.",
        *(
            f"{name}: {once / 1e9:.1f} GFLOP once a prompt, language model included"
            for name, (once, _) in flops.items()
        ),
    ]
    return Report(str(sizes), rows, seconds, flops={name: step for name, (_, step) in flops.items()}, notes=notes)


def step_seconds(sample: Callable[..., object], device: torch.device) -> float:
    """Seconds of a step, as a mean over all but the first."""
    ends: list[float] = []

    def mark(*_: object) -> dict[str, Tensor]:
        common.synchronise(device)
        ends.append(time.perf_counter())
        return {}

    sample(callback_on_step_end=mark)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def page_faults(sample: Callable[..., object]) -> int:
    """Pages of memory that all steps but the first have to wait for; load does not change their number."""
    faults: list[int] = []

    def mark(*_: object) -> dict[str, Tensor]:
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return {}

    sample(callback_on_step_end=mark)
    return faults[-1] - faults[0]


def count_flops(pipeline: Any, tokens: int) -> tuple[float, float]:
    """FLOPs of a guided image, no padding computed: once a prompt, the language model included, and in each step."""
    sampling = guided(pipeline.transformer.config.sample_size, tokens, steps=1)
    language_model = shorten(pipeline.text_encoder.config, max(pipeline.prompt_encoder.layers))
    text = sum(common.total(count_language_model(language_model, 1, length)) for length in (1, tokens))
    once, step = count_prompt_and_step(pipeline.transformer, sampling)
    return text + common.total(once), common.total(step)


def main(
    width: common.Width = 1024,
    blocks: common.Blocks = 4,
    text_layers: common.TextLayers = 36,
    tokens: Annotated[int, typer.Option(min=1, help="Of the prompt.")] = 40,
    steps: Annotated[int, typer.Option(min=2, help="Euler steps; all but the first are timed.")] = 10,
    rounds: common.Rounds = 5,
    strategy: Annotated[list[str] | None, typer.Option(help="Fusions to compare. Default: all.")] = None,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    sizes, target = Sizes(width, blocks, text_layers).checked(), common.choose_device(device)
    strategies = strategy or [name for name in FUSIONS if name != BASELINE]
    compare(sizes, strategies, tokens, steps, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
