"""Safetensors files: written, read whole, and held against what they should contain."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Size, Tensor, nn


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a file, for `whole_file` and `whole_folder`, which say what a full disk could not hold."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ValueError: it is cut short or otherwise damaged; the message names it.
        OSError: it cannot be read.
    """
    with _readable(path):
        return load_file(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors of a file, which are not read. Raises ValueError where it is damaged."""
    with _readable(path), safe_open(path, "pt") as file:
        return list(file.keys())


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Size], name: object) -> None:
    """Refuses tensors that are not exactly those expected, or hold values that are not finite.

    Args:
        tensors: what was read.
        expected: the shape of each tensor that there must be.
        name: of the file, for the message.

    Raises:
        ValueError: naming the first tensor that is wrong.
    """
    check_shapes({key: tensor.shape for key, tensor in tensors.items()}, expected, name)
    check_finite(tensors.items(), name)


def check_shapes(shapes: Mapping[str, Size], expected: Mapping[str, Size], name: object) -> None:
    """Refuses names and shapes that are not exactly those expected; see `check_tensors`."""
    for key in sorted(expected.keys() - shapes.keys()):
        raise ValueError(f"{name} lacks {key}.")
    for key in sorted(shapes.keys() - expected.keys()):
        raise ValueError(f"{name} holds {key}, which the model does not have.")
    for key, shape in shapes.items():
        if shape != expected[key]:
            raise ValueError(f"{name} has {key} of shape {list(shape)}; the model wants {list(expected[key])}.")


def check_finite(tensors: Iterable[tuple[str, Tensor]], name: object) -> None:
    """Refuses values that are infinite or not numbers. Raises ValueError naming the first tensor that has any."""
    for key, tensor in tensors:
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds values in {key} that are infinite or not numbers.")


def weights_digest(*modules: nn.Module) -> str:
    """SHA-256 of the modules' weights, by name and in the type that they are used in."""
    digest = sha256()
    for name, tensor in chain.from_iterable(sorted(module.state_dict().items()) for module in modules):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
