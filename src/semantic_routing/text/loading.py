"""Loads the part of a Hugging Face checkpoint that reads text, from a folder, the hub, or an installed package."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers import logging as transformers_logging

from ..io.extras import how_to_install

PACKAGE_PREFIX = "package:"

# Where vision-language checkpoints keep their language model, in the spellings that hub checkpoints use.
LANGUAGE_MODEL_KEYS = {r"^(model\.)?language_model\.(model\.)?": ""}


def resolve_model(name: str) -> str:
    """Turns `package:NAME`, a model that an installed Python package carries in its folder `model`, into a path."""
    if not name.startswith(PACKAGE_PREFIX):
        return name
    package = name.removeprefix(PACKAGE_PREFIX)
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"Text encoder {name!r} needs the Python package {package!r}, which is not installed: "
            f"{how_to_install(package)}"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")


def load_language_model_config(name: str) -> Any:
    """The `transformers` configuration of a checkpoint, as `load_language_model` takes it.

    Raises:
        ValueError: there is no such checkpoint.
    """
    try:
        return AutoConfig.from_pretrained(resolve_model(name))
    except OSError as error:
        raise ValueError(
            f"There is no text encoder {name!r}: it is neither a folder with a config.json nor a model of the hub "
            "that can be reached."
        ) from error


def load_language_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """Loads a decoder's or an encoder's stack of layers, without heads, decoder or vision tower.

    Args:
        name: folder, hub name, or `package:NAME`.
        dtype: of the weights.

    Raises:
        ValueError: there is no such checkpoint, or it lacks weights that the model needs.
    """
    config = load_language_model_config(name)
    text_config = config if config.is_encoder_decoder else config.get_text_config()
    auto_class = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
    with silent():
        model, report = auto_class.from_pretrained(
            resolve_model(name),
            config=text_config,
            dtype=dtype,
            key_mapping=None if text_config is config else LANGUAGE_MODEL_KEYS,
            use_safetensors=True,
            output_loading_info=True,
        )
    # BERT's pooler sits on top of the layers and is not read.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise ValueError(f"Checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__}: {missing[0]} …")
    if text_config is not config:
        # On saving, transformers would undo the renaming, and cannot: its patterns are one-way.
        model._weight_conversions = None
    return model.eval().requires_grad_(False)


def load_tokenizer(name: str) -> Any:
    """Loads the tokenizer that goes with `load_language_model(name)`."""
    return AutoTokenizer.from_pretrained(resolve_model(name))


@contextmanager
def silent() -> Iterator[None]:
    """Hides the progress bar, and the table of weights that are left out on purpose (heads and the vision tower)."""
    log: Any = transformers_logging
    level = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        log.enable_progress_bar()
