"""Loads the part of a Hugging Face checkpoint that reads text, and of that the layers that are read."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..io.messages import one_sentence
from ..io.tensors import check_finite
from .depth import can_shorten, shorten
from .places import resolve_model, silent

# Where vision-language checkpoints keep their language model, in the spellings that hub checkpoints use.
LANGUAGE_MODEL_KEYS = {r"^(model\.)?language_model\.(model\.)?": ""}


class LoadingReport(TypedDict):
    """What `from_pretrained` of `transformers` says of the weights, as far as it is read here."""

    missing_keys: set[str]
    mismatched_keys: set[tuple[str, Sequence[int], Sequence[int]]]


def load_language_model_config(name: str) -> PreTrainedConfig:
    """The `transformers` configuration of the part that `load_language_model` loads.

    Raises:
        ValueError: there is no such checkpoint, or it comes with code of its own.
    """
    return _text_config(_load_config(name))


def load_language_model(
    name: str, dtype: torch.dtype = torch.float32, num_layers: int | None = None
) -> PreTrainedModel:
    """Loads a decoder's or an encoder's stack of layers, without heads, decoder or vision tower.

    Args:
        name: folder, hub name, or `package:NAME`.
        dtype: of the weights.
        num_layers: build and load the first layers only; None, and models that cannot be shortened, have all.

    Raises:
        ValueError: there is no such checkpoint, it comes with code of its own, or weights that the model needs are
            missing, of another shape or not finite.
    """
    config = _load_config(name)
    text_config = _text_config(config)
    auto_class = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
    if num_layers is not None and num_layers < text_config.num_hidden_layers:
        with init_empty_weights():
            whole = auto_class.from_config(text_config)  # type: ignore[no-untyped-call]
        if can_shorten(whole):
            text_config = shorten(text_config, num_layers)
    with silent(), one_sentence(f"Text encoder {name!r}"):
        model, report = auto_class.from_pretrained(
            resolve_model(name),
            config=text_config,
            dtype=dtype,
            key_mapping=None if _text_config(config) is config else LANGUAGE_MODEL_KEYS,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    _check(name, model, report)
    if _text_config(config) is not config:
        # On saving, transformers would undo the renaming, and cannot: its patterns are one-way.
        model._weight_conversions = None
    return model.eval().requires_grad_(False)


def _load_config(name: str) -> PreTrainedConfig:
    place = resolve_model(name)
    try:
        with one_sentence(f"Text encoder {name!r}"):
            return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except OSError as error:
        raise ValueError(
            f"There is no text encoder {name!r}: it is neither a folder with a config.json nor a model of the hub "
            "that can be reached."
        ) from error
    except ValueError as error:
        raise ValueError(f"Text encoder {name!r} cannot be loaded: {' '.join(str(error).split())}") from error


def _text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    return config if config.is_encoder_decoder else config.get_text_config()


def _check(name: str, model: PreTrainedModel, report: LoadingReport) -> None:
    """Refuses weights that would have to be invented, or that are not numbers."""
    # BERT's pooler sits on top of the layers and is not read.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise ValueError(f"Checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__}: {missing[0]} …")
    for key, seen, wanted in sorted(report["mismatched_keys"]):
        raise ValueError(f"Checkpoint {name!r} has {key} of shape {list(seen)}; the model wants {list(wanted)}.")
    check_finite(model.named_parameters(), f"Checkpoint {name!r}")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer that goes with `load_language_model(name)`."""
    with one_sentence(f"The tokenizer of {name!r}"):
        return AutoTokenizer.from_pretrained(resolve_model(name), trust_remote_code=False)
