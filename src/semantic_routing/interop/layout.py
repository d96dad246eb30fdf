"""How the reference implementation names and lays out what our transformers hold, both ways.

Our names are the source: each one is spelled in the reference's way by rules, so that nothing can be forgotten. Three
kinds of tensor are laid out differently: what we keep for all blocks in one tensor is one tensor a block there, fusion
parameters that all blocks share have no block axis there, and `adaln-zero`'s output layer gives scale before shift.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import DiffusionTransformer2DModel, FuseDiTTransformer2DModel

LANGUAGE_MODEL_PREFIX = "llm."
IMAGE_PREFIX = "dit."

# Applied in turn to each of our names.
_RULES = (
    (r"^blocks\.", "layers."),
    (r"\.(?:self|joint)_attention\.to_([qkv])\.", r".self_attn.\1_proj."),
    (r"\.(?:self|joint)_attention\.", ".self_attn."),
    (r"\.cross_attention\.to_([kv])\.", r".cross_attn.text_\1_proj."),
    (r"\.cross_attention\.to_q\.", ".cross_attn.q_proj."),
    (r"\.cross_attention\.", ".cross_attn."),
    (r"_attn\.to_out\.", "_attn.o_proj."),
    (r"\.norm_([qk])\.", r".\1_norm."),
    (r"^context_embedder\.norm\.", "context_embedder.0."),
    (r"^context_embedder\.linear\.", "context_embedder.1."),
    (r"^time_embedder\.linear_1\.", "timestep_embedder.0."),
    (r"^time_embedder\.linear_2\.", "timestep_embedder.2."),
    (r"^time_embedder\.linear\.", "t_block.1."),
    (r"^modulation_out\.scale_shift_table$", "scale_shift_table"),
    (r"\.modulation\.scale_shift_table$", ".scale_shift_table"),
    (r"^modulation_out\.linear\.", "norm_out.linear."),
    (r"\.modulation\.linear\.", ".input_layernorm.linear."),
)
# With sandwich norms `post_attention_layernorm` normalizes what self-attention gives; without, what the MLP reads.
_NORMS = {"norm_attention": "input_layernorm", "norm_mlp": "post_attention_layernorm"}
_SANDWICH_NORMS = {
    "norm_attention": "input_layernorm",
    "norm_attention_out": "post_attention_layernorm",
    "norm_cross_out": "post_cross_attention_layernorm",
    "norm_mlp": "pre_feedforward_layernorm",
    "norm_mlp_out": "post_feedforward_layernorm",
}
# `adaln-zero` keeps a norm and the linear layer that modulates it together.
_ADALN_ZERO_NORMS = (
    (r"\.input_layernorm\.weight$", ".input_layernorm.norm.weight"),
    (r"^norm_out\.weight$", "norm_out.norm.weight"),
)
_GATE_PARTS = {"weight_in": "0.weight", "bias_in": "0.bias", "weight_out": "2.weight", "bias_out": "2.bias"}


class Place(NamedTuple):
    """Where one of our tensors is in a reference checkpoint.

    `stacked`: ours has a first axis, along which the reference has one tensor each. `swapped`: the halves of the first
    axis change places.
    """

    name: str
    reference: list[str]
    stacked: bool = False
    swapped: bool = False


class LayoutError(ValueError):
    """Tensors that do not fit the model that the configuration describes."""


def places(transformer: DiffusionTransformer2DModel) -> list[Place]:
    """The place of every tensor of a transformer, which may be on the meta device."""
    return [_place(name, transformer) for name in transformer.state_dict()]


def from_reference(tensors: Mapping[str, Tensor], transformer: DiffusionTransformer2DModel) -> dict[str, Tensor]:
    """A reference checkpoint's tensors under our names, bit by bit the same.

    Args:
        tensors: of the diffusion model alone.
        transformer: the model that they are for, on any device.

    Raises:
        LayoutError: a tensor is missing, has another shape, or has no place in the model; the message names it.
    """
    remaining = dict(tensors)
    ours = {}
    for place in places(transformer):
        missing = [name for name in place.reference if name not in remaining]
        if missing:
            raise LayoutError(f"The checkpoint lacks {missing[0]!r}, which its configuration calls for.")
        parts = [remaining.pop(name) for name in place.reference]
        ours[place.name] = _swapped(parts[0]) if place.swapped else torch.stack(parts) if place.stacked else parts[0]
    if remaining:
        raise LayoutError(
            f"The checkpoint's {next(iter(remaining))!r} has no place in the model that its configuration describes"
            + (f", nor have {len(remaining) - 1} other tensors." if len(remaining) > 1 else ".")
        )
    _check_shapes(ours, transformer)
    return ours


def to_reference(tensors: Mapping[str, Tensor], transformer: DiffusionTransformer2DModel) -> dict[str, Tensor]:
    """The inverse of `from_reference`.

    Raises:
        LayoutError: the tensors are not those of the transformer; the message names one.
    """
    wanted = {place.name for place in places(transformer)}
    for name in sorted(wanted.symmetric_difference(tensors)):
        raise LayoutError(f"The model folder {'lacks' if name in wanted else 'has an unknown tensor'} {name!r}.")
    _check_shapes(tensors, transformer)
    reference: dict[str, Tensor] = {}
    for place in places(transformer):
        tensor = tensors[place.name]
        parts = [_swapped(tensor)] if place.swapped else list(tensor.unbind(0)) if place.stacked else [tensor]
        reference.update(zip(place.reference, parts, strict=True))
    return reference


def _place(name: str, transformer: DiffusionTransformer2DModel) -> Place:
    if name.startswith("fusion."):
        return _fusion_place(name, transformer)
    config = transformer.config
    reference = name
    for pattern, replacement in _RULES:
        reference = re.sub(pattern, replacement, reference)
    norms = _SANDWICH_NORMS if config.sandwich_norm else _NORMS
    reference = re.sub(r"\.(norm_\w+)\.weight$", lambda match: f".{norms[match[1]]}.weight", reference)
    if config.timestep_conditioning == "adaln-zero":
        for pattern, replacement in _ADALN_ZERO_NORMS:
            reference = re.sub(pattern, replacement, reference)
    prefix = IMAGE_PREFIX if isinstance(transformer, FuseDiTTransformer2DModel) else ""
    return Place(name, [prefix + reference], swapped=name.startswith("modulation_out.linear."))


def _fusion_place(name: str, transformer: DiffusionTransformer2DModel) -> Place:
    """Fusion parameters: a vector of logits or a gate, for all blocks or one a block."""
    parameter = name.rpartition(".")[2]
    is_gate = parameter in _GATE_PARTS
    stem, leaf = (
        ("text_fusion_module", f".weight_generator.{_GATE_PARTS[parameter]}") if is_gate else ("text_fusion_weight", "")
    )
    if "block" in transformer.varies_with:
        blocks = range(transformer.config.num_blocks)
        return Place(name, [f"{stem}s.{block}{leaf}" for block in blocks], stacked=True)
    return Place(name, [stem + leaf], stacked=is_gate)


def _swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _check_shapes(tensors: Mapping[str, Tensor], transformer: DiffusionTransformer2DModel) -> None:
    for place in places(transformer):
        seen, wanted = tuple(tensors[place.name].shape), tuple(transformer.state_dict()[place.name].shape)
        if seen != wanted:
            raise LayoutError(
                f"The checkpoint's {place.reference[0]!r} (ours: {place.name!r}) has shape {seen}; "
                f"its configuration calls for {wanted}."
            )
