"""A pipeline that reads fewer language-model layers, and what that saves and changes."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..fusion import SemanticRouter
from ..io.files import whole_folder, write_json
from ..pipelines.saved import find_pipeline
from ..reporting.arrays import NamedArray
from .base import FINE_TIMES, AnalysisOptions, Subject
from .pictures import paired_change, share_correct


class ContextChange(NamedTuple):
    """Relative change ‖c' − c‖ / ‖c‖ of context, over blocks, times, prompts and real tokens."""

    largest: float
    mean: float


def most_weight(weights: NamedArray) -> NDArray[np.float64]:
    """The most weight that any block gives each layer at any time."""
    return weights.values.reshape(-1, weights.values.shape[-1]).max(0)


def rank_layers(weights: NamedArray) -> list[int]:
    """Positions in the router's stack by the most weight that they get; of equals the shallower comes first."""
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


def restrict(router: SemanticRouter, strategy: str, kept: Sequence[int]) -> SemanticRouter:
    """The router over some layers: the softmax over their logits alone renormalizes the weights."""
    small = SemanticRouter(strategy, len(kept), router.num_blocks)
    whole, index = router.state_dict(), torch.tensor(list(kept))
    weights = {}
    for name, tensor in small.state_dict().items():
        axes = [axis for axis, size in enumerate(tensor.shape) if size != whole[name].shape[axis]]
        # Every parameter of a strategy that has an entry a layer has one such axis; the others are copied.
        weights[name] = whole[name] if not axes else whole[name].index_select(axes[0], index.to(whole[name].device))
    small.load_state_dict(weights)
    return small.to(next(iter(whole.values())).device) if whole else small


def prune_pipeline(pipeline: Any, kept: Sequence[int]) -> Any:
    """A pipeline that shares all other weights with `pipeline` and reads only the layers at positions `kept`.

    Its language model has no more layers than it needs.

    Args:
        pipeline: a pipeline with a router.
        kept: positions in the router's stack, rising.
    """
    from accelerate import init_empty_weights

    transformer = pipeline.transformer
    strategy = transformer.config.strategy
    weights = {name: tensor for name, tensor in transformer.state_dict().items() if not name.startswith("router.")}
    router = restrict(transformer.router, strategy, kept)
    weights |= {f"router.{name}": tensor for name, tensor in router.state_dict().items()}
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    with init_empty_weights():
        small = type(transformer)(**{**config, "num_text_layers": len(kept)})
    small.load_state_dict(weights, assign=True)
    encoder = pipeline.prompt_encoder
    layers = [encoder.layers[position] for position in kept]
    options = {name: value for name, value in pipeline.config.items() if name in _OPTIONS}
    return type(pipeline)(
        transformer=small.eval(),
        scheduler=pipeline.scheduler,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        vae=pipeline.vae,
        text_layers=layers,
        **options,
    )


_OPTIONS = ("text_model", "instruction", "chat_template", "max_length", "last_layer", "timestep_map")


@torch.no_grad()
def context_change(pipeline: Any, kept: Sequence[int], prompts: Sequence[str]) -> ContextChange:
    """How far the context of each block moves when only the layers at positions `kept` are read."""
    transformer = pipeline.transformer
    features = pipeline.prompt_encoder(prompts).to(transformer.device, torch.float32)
    prepared = transformer.prepare_text(*features)
    router = transformer.router
    small = restrict(router, transformer.config.strategy, kept)
    fewer = prepared._replace(features=prepared.features[:, list(kept)])
    times = FINE_TIMES if router.depends_on_time else FINE_TIMES[:1]
    changes = []
    for flow_time in times:
        timestep = torch.tensor([1000 * (1 - flow_time)], dtype=torch.float32, device=transformer.device)
        whole, pruned = router(prepared, timestep), small(fewer, timestep)
        change = (pruned - whole).norm(dim=-1) / whole.norm(dim=-1)
        changes.append(change[:, prepared.mask].flatten())
    values: Tensor = torch.cat(changes)
    return ContextChange(float(values.max()), float(values.mean()))


def prune(
    name: str | None,
    out: Path,
    keep: int | None = None,
    threshold: float | None = None,
    options: AnalysisOptions | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Writes the pruned pipeline to `out`, reports what it saves and changes there in `pruned.json`, and in sentences.

    Args:
        name: pipeline folder or hub name; None is the demo model.
        out: folder of the new pipeline, which must not exist.
        keep: how many layers to keep.
        threshold: or, keep the layers that get at least this weight from some block at some time.
        options: prompts and sampling.
        report: takes each sentence.

    Raises:
        ValueError: `out` exists, or the layers cannot be chosen so.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; name a new folder.")
    subject = Subject(find_pipeline(name), options)
    kept = choose_layers(subject.weights(FINE_TIMES), keep, threshold)
    pruned = prune_pipeline(subject.pipeline, kept)
    numbers = compare(subject, pruned, kept)
    with whole_folder(out) as partial:
        pruned.save_pretrained(partial)
        write_json(partial / "pruned.json", numbers)
    for sentence in describe(numbers):
        report(sentence)
    return out


def compare(subject: Subject, pruned: Any, kept: Sequence[int]) -> dict[str, Any]:
    """What a pruned pipeline saves and changes, in numbers."""
    whole, prompts, guidance = subject.pipeline, subject.prompts, subject.options.guidance
    seconds = _encoding_seconds([whole, pruned], prompts, subject.options.rounds)
    ends = [subject.samples(guidance), subject.samples_of(pruned, guidance)]
    change = context_change(whole, kept, prompts)
    correct = [subject.correct(end) for end in ends]
    numbers: dict[str, Any] = {
        "layers": [subject.layers[position] for position in kept],
        "layers_before": subject.layers,
        "language_model_layers": whole.text_encoder.config.num_hidden_layers,
        "language_model_layers_run": max(pruned.prompt_encoder.layers),
        "language_model_bytes": [_bytes(pipeline.text_encoder) for pipeline in (whole, pruned)],
        "encoding_seconds": seconds,
        "context_change": change._asdict(),
        "image_change": float((ends[1] - ends[0]).square().mean().sqrt()),
        "prompts": len(prompts),
    }
    if correct[0] is not None and correct[1] is not None:
        before, after = (values.astype(np.float64) for values in correct if values is not None)
        numbers["correct"] = [before.tolist(), after.tolist()]
    return numbers


def describe(numbers: dict[str, Any]) -> list[str]:
    """The numbers of `compare` as sentences."""
    before, after = numbers["language_model_bytes"]
    slow, fast = numbers["encoding_seconds"]
    sentences = [
        f"Keeps layers {numbers['layers']} of {numbers['layers_before']}; the language model stops after layer "
        f"{numbers['language_model_layers_run']} of {numbers['language_model_layers']}.",
        f"Saves: language model {before / 2**20:.1f} → {after / 2**20:.1f} MiB; encoding {numbers['prompts']} prompts "
        f"{slow:.3f} → {fast:.3f} s; {len(numbers['layers'])} in place of {len(numbers['layers_before'])} layers of "
        "hidden states.",
        f"Changes: context by at most {numbers['context_change']['largest']:.1%} "
        f"(mean {numbers['context_change']['mean']:.1%}); images by {numbers['image_change']:.4f} (root mean square).",
    ]
    if "correct" in numbers:
        before, after = (np.array(values) for values in numbers["correct"])
        sentences.append(
            f"Correct images of {numbers['prompts']} scenes: {share_correct(before)} → {share_correct(after)} "
            f"(change {paired_change(after, before)})."
        )
    return sentences


def _encoding_seconds(pipelines: Sequence[Any], prompts: Sequence[str], rounds: int) -> list[float]:
    """Median seconds to encode the prompts, the pipelines taking turns after one round that is not counted."""
    taken: list[list[float]] = [[] for _ in pipelines]
    for round_ in range(rounds + 1):
        for seconds, pipeline in zip(taken, pipelines, strict=True):
            started = time.perf_counter()
            pipeline.prompt_encoder(prompts).hidden_states.cpu()
            if round_:
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def _bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
