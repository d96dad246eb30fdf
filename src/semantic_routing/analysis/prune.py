"""Which layers a pruned pipeline keeps, and what it saves and changes."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from ..fusion import Moment, TextFusion
from ..io.files import whole_folder, write_json
from ..pipelines.saved import find_pipeline
from ..reporting.arrays import NamedArray
from .layer_weights import FINE_TIMES
from .model import AnalysisOptions, SavedModel
from .pictures import paired_change, share_correct

if TYPE_CHECKING:
    from ..pipelines import SemanticRoutingPipeline
    from ..text import TextFeatures


class ContextChange(NamedTuple):
    """Relative change ‖c' − c‖ / ‖c‖ of context, over blocks, times, prompts and real tokens."""

    largest: float
    mean: float


class Comparison(TypedDict):
    """What pruning saves and changes; of two values the first is without it."""

    layers: list[int]
    layers_before: list[int]
    language_model_layers: int
    language_model_layers_run: int
    language_model_bytes: list[int]
    encoding_seconds: list[float]
    context_change: dict[str, float] | None
    image_change: float
    prompts: int
    correct: NotRequired[list[list[float]]]


def most_weight(weights: NamedArray) -> NDArray[np.float64]:
    """The most weight that any block gives each layer at any time."""
    return weights.values.reshape(-1, weights.values.shape[-1]).max(0)


def rank_layers(weights: NamedArray) -> list[int]:
    """Positions in the fusion's stack by the most weight that they get; of equals the shallower comes first."""
    peak = most_weight(weights)
    return sorted(range(len(peak)), key=lambda position: (-peak[position], position))


def choose_layers(weights: NamedArray, keep: int | None = None, threshold: float | None = None) -> list[int]:
    """Positions of the `keep` layers with the most weight, or of all whose most weight reaches `threshold`.

    Raises:
        ValueError: not exactly one of both is given, or it leaves no layer, or asks for layers without any weight.
    """
    peak = most_weight(weights)
    if (keep is None) == (threshold is None):
        raise ValueError("Say either how many layers to keep, or the least weight that keeps a layer.")
    if threshold is not None:
        kept = [position for position, weight in enumerate(peak) if weight >= threshold]
        if not kept:
            raise ValueError(f"No layer has a weight of {threshold:g}; the most is {peak.max():.4f}.")
        return kept
    weighted = int((peak > 0).sum())
    if not 1 <= int(keep or 0) <= weighted:
        raise ValueError(f"Of {weighted} layers with any weight 1 to {weighted} can be kept, not {keep}.")
    return sorted(rank_layers(weights)[:keep])


@torch.no_grad()
def context_change(fusion: TextFusion, features: "TextFeatures", kept: Sequence[int]) -> ContextChange | None:
    """How far the context of each block moves when only the layers at positions `kept` are read.

    None for a fusion that reads the image: its context exists only while sampling.
    """
    if "state" in fusion.varies_with:
        return None
    small, device = fusion.keep_layers(kept), features.mask.device
    features = features.to(device, torch.float32)
    prepared = fusion.prepare(*features, reused=True)
    fewer = small.prepare(features.hidden_states[:, list(kept)], features.mask, reused=True)
    changes = []
    for flow_time in FINE_TIMES if "timestep" in fusion.varies_with else FINE_TIMES[:1]:
        moment = Moment(torch.tensor([1000 * (1 - flow_time)], dtype=torch.float32, device=device))
        whole, pruned = fusion(prepared, moment), small(fewer, moment)
        change = (pruned - whole).norm(dim=-1) / whole.norm(dim=-1)
        changes.append((change if prepared.mask is None else change[:, prepared.mask]).flatten())
    values = torch.cat(changes)
    return ContextChange(float(values.max()), float(values.mean()))


def prune(
    name: str,
    out: Path,
    keep: int | None = None,
    threshold: float | None = None,
    options: AnalysisOptions | None = None,
) -> list[str]:
    """Writes the pruned pipeline to `out`, with what it saves and changes in `pruned.json`; returns it in sentences.

    Args:
        name: pipeline folder, hub name or "demo".
        out: folder of the new pipeline, which must not exist.
        keep: how many layers to keep.
        threshold: or, keep the layers that get at least this weight from some block at some time.
        options: prompts and sampling.

    Raises:
        ValueError: `out` exists, the layers cannot be chosen so, or the fusion cannot drop layers.
    """
    from ..pipelines.prune import prune_pipeline

    if out.exists():
        raise ValueError(f"{out} exists already; name a new folder.")
    model = SavedModel(find_pipeline(name), options)
    kept = choose_layers(model.magnitudes, keep, threshold)
    pruned = prune_pipeline(model.pipeline, kept)
    numbers = compare(model, pruned, kept)
    with whole_folder(out) as partial:
        pruned.save_pretrained(partial)
        write_json(partial / "pruned.json", numbers)
    return describe(numbers)


def compare(model: SavedModel, pruned: "SemanticRoutingPipeline", kept: Sequence[int]) -> Comparison:
    """What a pruned pipeline saves and changes, in numbers."""
    whole, prompts, guidance = model.pipeline, model.prompts, model.guidance
    seconds = _encoding_seconds([whole, pruned], prompts, model.options.rounds)
    ends = [model.samples(guidance), model.samples_of(pruned, guidance)]
    change = context_change(model.running_fusion, model.features(prompts), kept)
    correct = [model.correct(end) for end in ends]
    numbers: Comparison = {
        "layers": [model.layers[position] for position in kept],
        "layers_before": model.layers,
        "language_model_layers": whole.text_encoder.config.num_hidden_layers,
        "language_model_layers_run": max(pruned.prompt_encoder.layers),
        "language_model_bytes": [_bytes(pipeline.text_encoder) for pipeline in (whole, pruned)],
        "encoding_seconds": seconds,
        "context_change": None if change is None else change._asdict(),
        "image_change": float((ends[1] - ends[0]).square().mean().sqrt()),
        "prompts": len(prompts),
    }
    if correct[0] is not None and correct[1] is not None:
        before, after = (values.astype(np.float64) for values in correct if values is not None)
        numbers["correct"] = [before.tolist(), after.tolist()]
    return numbers


def describe(numbers: Comparison) -> list[str]:
    """The numbers of `compare` as sentences."""
    before, after = numbers["language_model_bytes"]
    slow, fast = numbers["encoding_seconds"]
    context = numbers["context_change"]
    moved = f"context by at most {context['largest']:.1%} (mean {context['mean']:.1%}); " if context else ""
    sentences = [
        f"Keeps layers {numbers['layers']} of {numbers['layers_before']}; the language model stops after layer "
        f"{numbers['language_model_layers_run']} of {numbers['language_model_layers']}.",
        f"Saves: language model {before / 2**20:.1f} → {after / 2**20:.1f} MiB; encoding {numbers['prompts']} prompts "
        f"{slow:.3f} → {fast:.3f} s; {len(numbers['layers'])} in place of {len(numbers['layers_before'])} layers of "
        "hidden states.",
        f"Changes: {moved}images by {numbers['image_change']:.4f} (root mean square).",
    ]
    if "correct" in numbers:
        whole, pruned = (np.array(values) for values in numbers["correct"])
        sentences.append(
            f"Correct images of {numbers['prompts']} scenes: {share_correct(whole)} → {share_correct(pruned)} "
            f"(change {paired_change(pruned, whole)})."
        )
    return sentences


def _encoding_seconds(
    pipelines: Sequence["SemanticRoutingPipeline"], prompts: Sequence[str], rounds: int
) -> list[float]:
    """Median seconds to encode the prompts, the pipelines taking turns after one round that is not counted."""
    taken: list[list[float]] = [[] for _ in pipelines]
    for round_ in range(rounds + 1):
        for seconds, pipeline in zip(taken, pipelines, strict=True):
            started = time.perf_counter()
            pipeline.prompt_encoder(prompts).hidden_states.cpu()
            if round_:
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def _bytes(language_model: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in language_model.parameters())
