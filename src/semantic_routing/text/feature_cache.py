"""Features of prompts on disk, for small text encoders and prompts that come again.

One safetensors file a prompt. Its name is a digest of all that the features depend on: the language model, what is read
of it, and the prompt's token ids, which hold what instruction, chat template, tokenizer and maximum length make of it.
"""

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

States = Float[Tensor, "layers text_tokens text_channels"]

logger = logging.getLogger(__name__)

# Files of the cache, complete or being written. Others in its folder are left alone.
OWN = re.compile(r"[0-9a-f]{64}\.(safetensors|[0-9a-f]{32}\.partial)")

# A process looks at the folder each time it has written 1/64 of the limit, and leaves 7/8: eight may share a folder.
CHECKS, KEPT = 64, 7 / 8


class FeatureCache:
    """Hidden states of one prompt at a time, kept up to a number of bytes; those used longest ago go first.

    Several processes may share a folder. A file that is damaged, cut short or not what its name says counts as absent.

    Args:
        folder: where files are kept.
        limit: bytes of all files together.

    Raises:
        ValueError: the folder cannot be written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"The feature cache {folder} cannot be written: {error.strerror}.") from error
        self.folder = folder
        self.limit = limit
        self.full = False
        self.unchecked = limit  # bytes written since the last look at the folder; at first, whatever may be there

    def read(self, key: str, read: Callable[[], States]) -> States:
        """What `read()` gives, from disk where it is there under this digest, else computed and kept."""
        path = self.folder / f"{key}.safetensors"
        states = _load(path)
        if states is None:
            states = read()
            self._save(path, states.cpu().contiguous())
        return states

    def _save(self, path: Path, states: Tensor) -> None:
        """Writes a file whole or not at all; where the disk is full, from now on none."""
        if self.full:
            return
        partial = path.with_suffix(f".{uuid4().hex}.partial")
        try:
            save_file({"hidden_states": states}, partial, {"checksum": _checksum(path, states)})
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            logger.warning("The feature cache %s cannot be written and keeps nothing more: %s", self.folder, error)
            self.full = True
            return
        with suppress(FileNotFoundError):  # another process may have evicted it already
            partial.replace(path)
        self.unchecked += states.nbytes
        if self.unchecked * CHECKS > self.limit:
            self._evict()

    def _evict(self) -> None:
        """Removes the files used longest ago, as many as are too many."""
        files = []
        for file in os.scandir(self.folder):
            if OWN.fullmatch(file.name):
                with suppress(FileNotFoundError):
                    files.append((file.stat().st_mtime_ns, file.stat().st_size, file.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= KEPT * self.limit:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
        self.unchecked = 0


def _load(path: Path) -> Tensor | None:
    """The hidden states of a file, if it is there and sound; marks it as used."""
    try:
        with safe_open(path, "pt") as file:
            states: Tensor = file.get_tensor("hidden_states")
            if file.metadata() != {"checksum": _checksum(path, states)}:
                return None
    except (OSError, SafetensorError):
        return None
    with suppress(OSError):  # evicted since, or another user's
        os.utime(path)
    return states


def _checksum(path: Path, states: Tensor) -> str:
    """Digest of the hidden states and of whose they are."""
    digest = hashlib.sha256(f"{path.stem} {states.dtype} {list(states.shape)}".encode())
    digest.update(_bytes(states))
    return digest.hexdigest()


def fingerprint(model: PreTrainedModel, reading: str) -> str:
    """Digest of what features depend on beside the tokens: to the last bit, also what they are computed with."""
    computed = f"{model.config._attn_implementation} {model.device.type} {torch.__version__} {transformers.__version__}"
    digest = hashlib.sha256(f"{reading} {model.config.to_json_string()} {computed}".encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(_bytes(weight))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
