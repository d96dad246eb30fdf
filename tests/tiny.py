"""Tiny models beside those of the package, images on disk: what fixtures and tests make things from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from semantic_routing.text.tiny import NUM_LAYERS, TEXT_CHANNELS, TINY_MODELS, decoder_sizes

# Of a config whose pictures are 32 pixels a side.
MODEL_SECTION = {
    "strategy": "joint",
    "num_blocks": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_head_dim": 8,
    "hidden_size": 32,
    "patch_size": 8,
    "timestep_conditioning": "adaln-zero",
}
TRANSFORMER_SIZES = {
    "num_text_layers": NUM_LAYERS,
    "text_channels": TEXT_CHANNELS,
    "num_blocks": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_head_dim": 8,
    "hidden_size": 24,
    "in_channels": 3,
    "patch_size": 2,
    "sample_size": 8,
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**decoder_sizes(query_pre_attn_scalar=8)))


def _gemma3() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    text = decoder_sizes(query_pre_attn_scalar=8)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=60)
    )


FAMILIES: dict[str, Callable[[], Any]] = TINY_MODELS | {"gemma2": _gemma2, "gemma3": _gemma3}

CAPTIONS = ("a red circle", "two blue squares", "a green star and a red square", "a blue circle left of a star")


def write_images(folder: Path, count: int = 12, size: tuple[int, int] = (20, 16)) -> Path:
    """`count` different PNG files and a JSONL file that captions them; returns the latter."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        lines.append(json.dumps({"image": f"images/{index}.png", "text": CAPTIONS[index % len(CAPTIONS)]}))
    path = folder / "captions.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def tiny_pipeline(text_model: Path) -> Any:
    """A pipeline of random weights that makes pictures of 8 pixels; its language model is a name."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from semantic_routing.models import SemanticRoutingTransformer2DModel
    from semantic_routing.pipelines import SemanticRoutingPipeline

    transformer = SemanticRoutingTransformer2DModel(**TRANSFORMER_SIZES, strategy="joint").eval()
    for parameter in transformer.parameters():  # an untrained network's last layer is zero
        parameter.data += 0.3 * torch.randn_like(parameter)
    pipeline = SemanticRoutingPipeline(transformer, FlowMatchEulerDiscreteScheduler(), text_model=str(text_model))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
