"""Sampling with each fusion against `penultimate`, whole pipeline: wanted is at most 1.00 × the time for a fusion that
varies with neither timestep nor state, 1.02 × for one that varies with the timestep, and 1.05 × with the state.

All pipelines share one DiT and one random Qwen3 language model, and make the same guided image in turns. A fusion that
reads the last layer runs the language model one layer further than `penultimate` does. What ignores timestep and state
is made once a prompt, so that steps are the same. What varies with them is made anew in each step: the mixture of
layers and, from it, context, keys and values of the prompt's real tokens; once for all blocks (`time-wise`) or for
each. Fewer steps than the usual 50 make the work of a prompt count for more than it would.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
import typer

from semantic_routing.fusion import FUSIONS
from semantic_routing.models.flops import count_language_model, count_sampling
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
    """Times of one guided image over those of `penultimate`, language model included."""
    base = make_pipeline(sizes, "joint", device, torch.bfloat16)
    pipelines = {name: with_strategy(base, name) for name in (BASELINE, *strategies)}
    noise = torch.randn(1, sizes.latent_channels, sizes.latent_size, sizes.latent_size)
    prompt = caption(tokens)
    sides = {}
    for name, pipeline in pipelines.items():
        pipeline.set_progress_bar_config(disable=True)
        sides[name] = partial(pipeline, prompt, num_inference_steps=steps, latents=noise, output_type="latent")
    seconds = common.alternate(sides, rounds, device)
    flops = {name: count_flops(pipeline, tokens, steps) for name, pipeline in pipelines.items()}
    rows = [
        Row(
            f"sampling, `{name}` against `{BASELINE}`, whole pipeline: time",
            wanted(name),
            common.ratios(seconds[name], seconds[BASELINE]),
            flops[name] / flops[BASELINE],
        )
        for name in strategies
    ]
    notes = [
        f"One guided image in {steps} steps, prompt of {tokens} tokens, bfloat16, no autoencoder (the same for all)."
    ]
    return Report(str(sizes), rows, seconds, flops=flops, notes=notes)


def count_flops(pipeline: Any, tokens: int, steps: int) -> float:
    """FLOPs of a guided image, no padding computed: the language model on both prompts, then all of sampling."""
    sampling = guided(pipeline.transformer.config.sample_size, tokens, steps)
    language_model = shorten(pipeline.text_encoder.config, max(pipeline.prompt_encoder.layers))
    text = sum(common.total(count_language_model(language_model, 1, length)) for length in (1, tokens))
    return text + common.total(count_sampling(pipeline.transformer, sampling))


def main(
    width: common.Width = 1024,
    blocks: common.Blocks = 4,
    text_layers: common.TextLayers = 36,
    tokens: Annotated[int, typer.Option(min=1, help="Of the prompt.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Euler steps.")] = 20,
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
