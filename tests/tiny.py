"""Tiny random models of real classes, a real tokenizer, images on disk: what fixtures and tests make things from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

NUM_LAYERS = 4
TEXT_CHANNELS = 32
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
WORDS = ("a", "the", "red", "green", "blue", "circle", "square", "star", "squares", "and", "left", "of", "two", "draw")
CHAT_TEMPLATE = (
    "{% for message in messages %}<user> {{ message['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_tokenizer(pad: bool = True) -> Any:
    """One token a word. It pads on the left when left to itself, which the text encoder must not let it do."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<end>", "<user>", "<assistant>", "<pad>"]
    words = {word: index for index, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<pad>" if pad else None,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _decoder_sizes(**more: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 64,
        "hidden_size": TEXT_CHANNELS,
        "intermediate_size": 48,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
    }
    return sizes | more


def _qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": TEXT_CHANNELS,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=_decoder_sizes(rope_parameters=rope), vision_config=vision)
    )


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_decoder_sizes()))


def _gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**_decoder_sizes(query_pre_attn_scalar=8)))


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
    text = _decoder_sizes(query_pre_attn_scalar=8)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=60)
    )


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_decoder_sizes()))


def _bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    sizes = _decoder_sizes()
    for key in ("num_key_value_heads", "head_dim"):
        del sizes[key]
    return BertForMaskedLM(BertConfig(**sizes))


def _t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=64,
            d_model=TEXT_CHANNELS,
            d_kv=8,
            d_ff=48,
            num_layers=NUM_LAYERS,
            num_decoder_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen3-vl": _qwen3_vl,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "llama": _llama,
    "bert": _bert,
    "t5": _t5,
}


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
