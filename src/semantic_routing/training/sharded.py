"""Tensors in shards: each process writes what it holds, and reads what it shall hold, however many processes wrote.

This is `torch.distributed.checkpoint` in its form of safetensors. Each process writes one file, whose header says where
in the whole tensors its parts lie. There is no other metadata, and no pickle.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Size, Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

SHARDS = "*.safetensors"


def write_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes a file a process; all take part. What several hold alike is written by one of them.

    Raises:
        OSError: some process could not write.
    """
    try:
        with _one_process_is_enough():
            save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise OSError(f"{folder} cannot be written: {_first(error)}.") from error


def read_shards(tensors: Mapping[str, Tensor], folder: Path, alone: bool = False) -> None:
    """Fills tensors, sharded or not, in place; all processes take part unless one does so `alone`.

    Raises:
        ValueError: the files do not hold them.
    """
    try:
        with _one_process_is_enough():
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read: {_first(error)}.") from error


def read_whole(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The whole tensors whose names begin with `prefix`, under the rest of their names, on the CPU of one process."""
    found = {name: stored for name, stored in _stored(folder).items() if name.startswith(prefix)}
    whole = {name: torch.empty(stored.size, dtype=stored.properties.dtype) for name, stored in found.items()}
    read_shards(whole, folder, alone=True)
    return {name.removeprefix(prefix): tensor for name, tensor in whole.items()}


def stored_shapes(folder: Path) -> dict[str, Size]:
    """The shapes of the whole tensors, which are not read."""
    return {name: stored.size for name, stored in _stored(folder).items()}


def _stored(folder: Path) -> dict[str, TensorStorageMetadata]:
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: stored for name, stored in found.items() if isinstance(stored, TensorStorageMetadata)}


def _first(error: CheckpointException) -> BaseException:
    """What went wrong in the first of the processes where something did."""
    failure, _ = next(iter(error.failures.values()))
    return failure


@contextmanager
def _one_process_is_enough() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
