"""Finds and reads the files of a reference checkpoint: a training folder, a weights file, or an exported pipeline."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..io.files import JsonObject, read_json_object

Weights = Literal["ema", "raw"]

AVERAGED = ("ema.pt",)
DEEPSPEED = "mp_rank_00_model_states.pt"
RAW = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", DEEPSPEED)
INDEX_SUFFIX = ".safetensors.index.json"

# Weights may lie under one of these entries, and their names may carry these prefixes, once or more.
_ENTRIES = ("shadow_params", "module", "state_dict")
_PREFIXES = ("module.", "_orig_mod.")


class Checkpoint(NamedTuple):
    """A reference checkpoint as it was read.

    `file` holds the weights; `pipeline` is the folder of an exported pipeline with its other parts, or None.
    """

    config: JsonObject
    tensors: dict[str, Tensor]
    file: Path
    pipeline: Path | None


def read_checkpoint(path: Path, weights: Weights | None = None) -> Checkpoint:
    """Reads a reference checkpoint.

    Args:
        path: a training folder, an exported pipeline's folder, or a file of weights beside its `config.json`.
        weights: the moving average or the raw weights of a training folder; None takes the average where there is one.

    Raises:
        ValueError: there are no weights or no configuration, or they cannot be read.
        OSError: there is no such path.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    pipeline = path if (path / "transformer" / "config.json").is_file() else None
    file = path if path.is_file() else _find_weights(path if pipeline is None else path / "transformer", weights)
    config = _find_config(file)
    return Checkpoint(config, read_weights(file), file, pipeline)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by bare name, from safetensors, a sharded index of them, or a `.pt` or `.bin` file without code in it.

    Raises:
        ValueError: the file is truncated, holds more than tensors, or names no tensors.
    """
    try:
        if file.name.endswith(INDEX_SUFFIX):
            return _bare(_read_shards(file))
        if file.suffix == ".safetensors":
            return _bare(load_file(file))
        return _bare(_unwrap(torch.load(file, map_location="cpu", weights_only=True), file))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} holds more than tensors, or is damaged, and is not opened.") from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        reason = (str(error) or "it ends too soon").splitlines()[0]
        raise ValueError(f"{file} is truncated or damaged: {reason}") from error


def find_raw_weights(folder: Path) -> Path:
    """The weights of a model folder, ours or the reference's.

    Raises:
        ValueError: there are none.
    """
    return _find_weights(folder, "raw")


def _find_weights(folder: Path, weights: Weights | None) -> Path:
    """The file of weights in a folder; DeepSpeed's lies one folder deeper."""
    names = {"ema": AVERAGED, "raw": RAW, None: (*AVERAGED, *RAW)}[weights]
    for name in names:
        deeper = sorted(folder.glob(f"*/{name}")) if name == DEEPSPEED else []
        for found in (folder / name, *deeper):
            if found.is_file():
                return found
        index = folder / f"{Path(name).stem}{INDEX_SUFFIX}"
        if name.endswith(".safetensors") and index.is_file():
            return index
    raise ValueError(f"{folder} holds no weights: it has none of {', '.join(names)}.")


def _find_config(file: Path) -> JsonObject:
    for folder in (file.parent, file.parent.parent):
        if (folder / "config.json").is_file():
            config = read_json_object(folder / "config.json")
            if "_class_name" in config and "base_config" not in config:
                raise ValueError(f"{folder} is a {config['_class_name']} of ours; for the way back use --to-reference.")
            return config
    raise ValueError(f"{file} has no config.json beside it, which says what its weights are.")


def _read_shards(index: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(read_json_object(index)["weight_map"].values())):
        tensors.update(load_file(index.parent / name))
    return tensors


def _unwrap(values: object, file: Path) -> dict[str, Tensor]:
    """The dictionary of tensors, which may be an entry of another."""
    while isinstance(values, dict):
        inner = next((values[entry] for entry in _ENTRIES if isinstance(values.get(entry), dict)), None)
        if inner is None:
            break
        values = inner
    if not isinstance(values, dict) or not values or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(f"{file} holds no dictionary of named tensors.")
    return values


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_without_prefixes(name, _PREFIXES): tensor for name, tensor in tensors.items()}


def _without_prefixes(name: str, prefixes: Iterable[str]) -> str:
    while True:
        shorter = name
        for prefix in prefixes:
            shorter = shorter.removeprefix(prefix)
        if shorter == name:
            return name
        name = shorter
