"""LoRAs on the attention of a model of `diffusers`."""

from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn

from ..pipelines import SemanticRoutingPipeline

ATTENTION = ("to_q", "to_k", "to_v", "to_out", "to_out.0", "to_query", "to_key", "to_value", "out_layer")
"""The projections of attention, as the models of `diffusers` and ours call them."""


def add_lora(transformer: Any, rank: int) -> None:
    """Adds LoRAs of a rank, in float32, which alone are trained then. They change nothing before the first step.

    Raises:
        ValueError: the model takes none.
    """
    if not hasattr(transformer, "add_adapter"):
        raise ValueError(f"{type(transformer).__name__} takes no LoRA in diffusers.")
    transformer.requires_grad_(False)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(_projections(transformer))))
    cast_training_params(transformer, torch.float32)


def lora_parameters(transformer: nn.Module, rank: int) -> int:
    """How many parameters LoRAs of a rank have."""
    return sum(rank * (linear.in_features + linear.out_features) for linear in _projections(transformer).values())


def save_lora(transformer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Writes LoRAs as `load_lora_weights` of our pipeline reads them."""
    layers = {name: value.to(dtype) for name, value in get_peft_model_state_dict(transformer).items()}
    SemanticRoutingPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=layers,
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )


def _projections(transformer: nn.Module) -> dict[str, nn.Linear]:
    ends = tuple(f".{end}" for end in ATTENTION)
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(ends) and not name.startswith("fusion.")
    }
