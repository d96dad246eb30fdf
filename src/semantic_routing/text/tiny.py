"""Tiny random language models of real classes and a real tokenizer, to try things in seconds and without a network."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedModel

NUM_LAYERS = 4
TEXT_CHANNELS = 32

SPECIAL_TOKENS = ("<unk>", "<end>", "<user>", "<assistant>", "<pad>")
_SENTENCE = """
a an the one two three four five six red orange yellow green blue purple pink brown black white gray small large solid
outlined striped circle square triangle star heart ring cross object shape circles squares triangles stars hearts rings
and or no not with of in on to at is are left right above below over under inside between picture image photo drawing
background draw side next touching
"""
WORDS = tuple(_SENTENCE.split())
VOCABULARY_SIZE = 320
CHAT_TEMPLATE = (
    "{% for message in messages %}<user> {{ message['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


def tiny_tokenizer(pad: bool = True) -> transformers.PreTrainedTokenizerFast:
    """One token for each of `WORDS`, other words by the character, and a chat template.

    Args:
        pad: with a token for padding, on the left.
    """
    characters = sorted({*string.ascii_letters, *string.digits, *string.punctuation})
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *WORDS, *characters, *(f"##{character}" for character in characters)])
    backend = Tokenizer(WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<pad>" if pad else None,
        additional_special_tokens=["<user>", "<assistant>"],
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def decoder_sizes(**more: object) -> dict[str, Any]:
    """A decoder's sizes as `transformers` configurations name them."""
    sizes = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": TEXT_CHANNELS,
        "intermediate_size": 48,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
    }
    return sizes | more


def _qwen3() -> PreTrainedModel:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**decoder_sizes()))


def _qwen3_vl() -> PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": TEXT_CHANNELS,
        "deepstack_visual_indexes": [0],
    }
    config = transformers.Qwen3VLConfig(text_config=decoder_sizes(rope_parameters=rope), vision_config=vision)
    return transformers.Qwen3VLForConditionalGeneration(config)


def _llama() -> PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder_sizes()))


def _bert() -> PreTrainedModel:
    sizes = {key: value for key, value in decoder_sizes().items() if key not in ("num_key_value_heads", "head_dim")}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes))


def _t5_sizes() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY_SIZE,
        "d_model": TEXT_CHANNELS,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": NUM_LAYERS,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    }


def _t5() -> PreTrainedModel:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**_t5_sizes()))


def _umt5() -> PreTrainedModel:
    return transformers.UMT5ForConditionalGeneration(transformers.UMT5Config(**_t5_sizes()))


TINY_MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3": _qwen3,
    "qwen3-vl": _qwen3_vl,
    "llama": _llama,
    "bert": _bert,
    "t5": _t5,
    "umt5": _umt5,
}


def write_tiny_model(make: Callable[[], PreTrainedModel], folder: Path, seed: int = 0) -> None:
    """Writes a random checkpoint as the hub has them, with heads and towers, and its tokenizer.

    Args:
        make: one of `TINY_MODELS`.
        folder: where to.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            # Norm weights start at one and biases at zero, which would hide that one was not loaded.
            parameter.data += 0.02 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
