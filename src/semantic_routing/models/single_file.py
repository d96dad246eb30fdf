"""Weights in one file, for `from_single_file` of our models."""

from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import load_single_file_checkpoint
from torch import Tensor, nn

from ..io.tensors import check_finite, check_shapes

Weights = str | Path | dict[str, Tensor]
"""A file, the link of one on the hub, or tensors by name."""


def name_of(given: Weights) -> str:
    """What messages call them."""
    return "The dictionary" if isinstance(given, dict) else str(given)


def folder_of(given: Weights) -> Path:
    """The folder of a file.

    Raises:
        ValueError: it is no file here.
    """
    if isinstance(given, dict) or not Path(given).is_file():
        raise ValueError(f"{name_of(given)} has no folder with a config.json: name one by config.")
    return Path(given).parent


def read_weights(given: Weights, **kwargs: Any) -> dict[str, Tensor]:
    """The tensors.

    Args:
        given: where they are.
        kwargs: of the download.

    Raises:
        ValueError: there is no such file, or it is no safetensors file.
    """
    if isinstance(given, dict):
        return dict(given)
    if not str(given).partition("?")[0].endswith(".safetensors"):
        raise ValueError(f"{given} is no safetensors file; others may hold code.")
    try:
        tensors: dict[str, Tensor] = load_single_file_checkpoint(str(given), **kwargs)
    except ValueError as error:
        raise ValueError(f"{given} is neither a file of weights nor a link of one on the hub.") from error
    return tensors


def check_weights(tensors: dict[str, Tensor], model: nn.Module, given: Weights) -> None:
    """Refuses tensors that are not the model's.

    Raises:
        ValueError: naming the first one that is wrong.
    """
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        check_shapes({name: tensor.shape for name, tensor in tensors.items()}, wanted, name_of(given))
    except ValueError as error:
        raise ValueError(f"{error} sroute convert reads checkpoints of the reference implementation.") from error
    check_finite(tensors.items(), name_of(given))
