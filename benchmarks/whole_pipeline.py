"""What the two rows share that compare strategies: pipelines on one backbone, sampling one image in turns."""

from functools import partial
from typing import Any

import torch

from semantic_routing.analysis.overhead import variant
from semantic_routing.models.flops import count_language_model, count_sampling
from semantic_routing.text.early_exit import shorten

from . import common
from .models import Sizes, caption, guided, make_pipeline
from .report import Report, Row

BASELINE = "penultimate"


def compare(
    strategies: list[str], wanted: str, sizes: Sizes, tokens: int, steps: int, rounds: int, device: torch.device
) -> Report:
    """Times of one guided image over those of `penultimate`, language model included."""
    base = make_pipeline(sizes, strategies[0], device, torch.bfloat16)
    pipelines = {name: variant(base, name) for name in (BASELINE, *strategies)}
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
            wanted,
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
