"""What strategies cost, and widths at which they cost equally many parameters."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..io.files import METRICS
from ..io.jsonl import read_lines
from ..models.flops import Sampling, count_parameters, count_prompt_and_step
from ..models.matching import matched_width
from ..reporting.table import Table
from ..training.build import build_transformer, resolve_sizes, transformer_arguments
from ..training.dry_run import training_memory
from .ablation import AblationOptions, Trial

logger = logging.getLogger(__name__)

TEXT_TOKENS = 32
"""Of the prompt whose cost is counted."""


def match_parameters(trials: Sequence[Trial]) -> list[Trial]:
    """The same trials, each with as many parameters as the largest of them.

    The largest is the target since any fusion can be given more parameters, but not always fewer. The dial is
    `model.context_channels`, a whole number: what stays is a difference of at most half of what one channel costs.

    Args:
        trials: of routed models; what they set as `model.context_channels` counts for which is the largest.

    Raises:
        ValueError: a model has no fusion, and so no dial.
    """
    for trial in trials:
        if trial.config.model.strategy is None:
            raise ValueError(
                f"Models are matched by the width of what a fusion feeds, and {trial.label} has no fusion: leave it "
                "out, or compare without matching."
            )
    first = {trial.label: trial for trial in reversed(trials)}
    most = max(_parameters(trial) for trial in first.values())
    widths = {label: _width(trial, most) for label, trial in first.items()}
    logger.info("Matched to %.3f M parameters by model.context_channels: %s.", most / 1e6, widths)
    return [_with_width(trial, widths[trial.label]) for trial in trials]


def _with_width(trial: Trial, channels: int) -> Trial:
    model = trial.config.model.model_copy(update={"context_channels": channels})
    return replace(trial, config=trial.config.model_copy(update={"model": model}))


def _parameters(trial: Trial) -> int:
    with torch.device("meta"):
        transformer = build_transformer(trial.config, resolve_sizes(trial.config))
    return sum(count_parameters(transformer).values())


def _width(trial: Trial, parameters: int) -> int:
    arguments = transformer_arguments(trial.config, resolve_sizes(trial.config))
    return matched_width(parameters=parameters, **arguments)


def cost_table(by_label: Mapping[str, Sequence[Trial]], options: AblationOptions) -> Table:
    """Parameters, FLOPs of a prompt and of a step, memory, and the speed of training that was seen."""
    rows, first = [], None
    for label, own in by_label.items():
        config = own[0].config
        sizes = resolve_sizes(config)
        with torch.device("meta"):
            transformer = build_transformer(config, sizes)
        parameters = sum(count_parameters(transformer).values())
        sampling = Sampling(config.data.image_size // sizes.downsampling, TEXT_TOKENS, options.steps)
        prompt, step = (sum(counts.values()) for counts in count_prompt_and_step(transformer, sampling))
        first = first or (parameters, step)
        changes = [f"{100 * (cost / base - 1):+.2f} %" for cost, base in zip((parameters, step), first, strict=True)]
        memory = sum(training_memory(config, sizes, parameters, parameters).values())
        speed = np.median([line["images_per_second"] for trial in own for line in read_lines(trial.run / METRICS)])
        costs = [f"{parameters / 1e6:.3f} M", changes[0], f"{prompt / 1e9:.4g} G", f"{step / 1e9:.4g} G", changes[1]]
        rows.append([label, *costs, f"{memory / 2**20:.4g} MiB", f"{speed:.0f}"])
    caption = (
        f"FLOPs of the transformer for one guided image from {TEXT_TOKENS} tokens: once for its prompt, and in each of "
        "its steps; the language model is not counted. Changes are against the first row. Memory is the transformer's "
        "in training, by count: weights, gradients, AdamW's moments, average and activations. Images a second are "
        "training's median, here."
    )
    header = ["strategy", "parameters", "change", "FLOPs a prompt", "FLOPs a step", "change"]
    return Table([*header, "memory", "training, images/s"], rows, caption, "cost of computing")
