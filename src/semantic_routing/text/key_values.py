"""Prompts in, keys and values of the language model's own attention out: what deep fusion reads (FuseDiT)."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from ..io.messages import brief
from .encoder import TextEncoder

# Their layers rotate keys in two halves, as the image side does; those of Qwen3 normalize keys first.
MODEL_TYPES = ("qwen3", "qwen3_vl_text", "qwen2", "llama", "mistral")


class KeyValueEncoder(TextEncoder):
    """Gives, in place of hidden states, each chosen layer's keys as its attention reads them, then its values.

    Text never reads image tokens, so that these depend on the prompt alone. The channels are `heads x head width` of
    the keys followed by as many of the values. Layers count from 0, the first one. See `TextEncoder` for the arguments.

    Raises:
        ValueError: the language model is of a type not in `MODEL_TYPES`, or a layer is out of range.
    """

    @classmethod
    def resolve(cls, layers: str | int | Sequence[int], config: PreTrainedConfig) -> list[int]:
        """Layer numbers from 0: "all", a number n for the last n, or a list, negative ones from the end."""
        if config.model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise ValueError(f"Deep fusion reads keys and values of a {known} model, not of {config.model_type!r}.")
        count = config.num_hidden_layers
        if layers == "all":
            return list(range(count))
        if isinstance(layers, int):
            if not 1 <= layers <= count:
                raise ValueError(f"Cannot take the last {layers} layers of {count}.")
            layers = list(range(count - layers, count))
        if isinstance(layers, str) or not layers:
            raise ValueError(f"Layers must be 'all', a number or a non-empty list of numbers, not {brief(layers)}.")
        for layer in layers:
            if not -count <= layer < count:
                raise ValueError(f"Layer {layer} is out of range: the language model has layers 0 to {count - 1}.")
        return sorted({layer % count for layer in layers})

    @classmethod
    def channels(cls, config: PreTrainedConfig) -> int:
        """Channels of keys and values together."""
        head_channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_key_value_heads * head_channels)

    @classmethod
    def layers_computed(cls, layers: Sequence[int], config: PreTrainedConfig) -> int:
        """Up to the deepest layer chosen."""
        return max(layers) + 1

    def read(
        self, input_ids: Int[Tensor, "batch text_tokens"], mask: Bool[Tensor, "batch text_tokens"]
    ) -> Float[Tensor, "batch layers text_tokens key_value_channels"]:
        """Runs the language model and takes what it would keep for generating on."""
        cache: Any = DynamicCache()
        self.model(input_ids=input_ids, attention_mask=mask.long(), past_key_values=cache, use_cache=True)
        kept = [torch.cat([cache.layers[layer].keys, cache.layers[layer].values], dim=1) for layer in self.layers]
        return rearrange(torch.stack(kept, dim=1), "b l g n c -> b l n (g c)")
