"""Features of a fixed list of captions: computed once, packed into few files, memory-mapped, shared by processes."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..io.files import whole_file

States = Float[Tensor, "layers text_tokens text_channels"]

SHARD_BYTES = 2**28


class FeaturePool:
    """Hidden states of captions, in safetensors files of about 256 MiB, and in this process as views of their maps.

    A file's header says which captions it holds, by a digest of all that their features depend on. A file that is
    damaged counts as absent. What is missing is computed by the first process that comes, while others wait.

    Args:
        folder: where files are kept; of other captions or language models there may be others.
        keys: the digest of each caption.
        read: computes hidden states of captions, in their order.

    Raises:
        ValueError: the folder cannot be written.
    """

    def __init__(self, folder: Path, keys: dict[str, str], read: Callable[[Sequence[str]], Iterator[States]]) -> None:
        self.folder = folder
        self._states: dict[str, States] = {}
        captions = {key: caption for caption, key in keys.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):
                self._open(captions)
                missing = [caption for key, caption in captions.items() if caption not in self._states]
                if missing:
                    self._write(missing, keys, read(missing))
                    self._open(captions)
        except OSError as error:
            if error.strerror is None:  # it says already what cannot be written
                raise
            raise ValueError(f"The feature pool {folder} cannot be written: {error.strerror}.") from error
        self._states = {caption: self._states[captions[key]] for caption, key in keys.items()}

    def find(self, captions: Sequence[str]) -> dict[str, States]:
        """Those of some captions that are in the pool."""
        return {caption: self._states[caption] for caption in captions if caption in self._states}

    def _open(self, captions: dict[str, str]) -> None:
        """Maps the files that hold any of the captions, by key, and are whole."""
        for path in sorted(self.folder.glob("pool-*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    header = json.loads((file.metadata() or {}).get("pool", "{}"))
                    places = header.get("places", {})
                    if not places.keys() & captions.keys():
                        continue
                    flat = file.get_tensor("hidden_states")
            except (OSError, SafetensorError, json.JSONDecodeError):
                continue
            if header.get("sha256") != _digest(flat, places):
                continue
            for key in places.keys() & captions.keys():
                start, *shape = places[key]
                self._states[captions[key]] = flat[start : start + torch.Size(shape).numel()].view(shape)

    def _write(self, captions: Sequence[str], keys: dict[str, str], states: Iterator[States]) -> None:
        """Packs hidden states, in order, into files of `SHARD_BYTES`."""
        places: dict[str, list[int]] = {}
        rows: list[Tensor] = []
        size = 0
        for number, (caption, state) in enumerate(zip(captions, states, strict=True), start=1):
            places[keys[caption]] = [size, *state.shape]
            rows.append(state.flatten().cpu())
            size += state.numel()
            if number == len(captions) or (size + state.numel()) * state.element_size() > SHARD_BYTES:
                flat = torch.cat(rows)
                digest = _digest(flat, places)
                # One entry: the file's own order of several differs from run to run.
                header = json.dumps({"sha256": digest, "places": places})
                with whole_file(self.folder / f"pool-{digest}.safetensors") as partial:
                    save_file({"hidden_states": flat}, partial, {"pool": header})
                places, rows, size = {}, [], 0


def _digest(flat: Tensor, places: dict[str, list[int]]) -> str:
    digest = hashlib.sha256(f"{places} {flat.dtype}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
