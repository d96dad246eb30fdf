"""The file of an adapter: a few kilobytes of weights, and what they belong to."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from torch import nn

from ..fusion import FUSIONS
from ..fusion.saved import ADAPTER_CONFIG as CONFIG
from ..fusion.saved import ADAPTER_WEIGHTS as WEIGHTS
from ..io.files import JsonObject, read_json_object, sha256, whole_file, write_json
from ..io.registry import source_of
from ..io.versions import versions
from .attach import Routable, attach_fusion, find_routing, host_model, parts
from .capture import EncoderSizes, capture
from .hosts import config_of


def save_routing(target: Routable, folder: str | Path) -> Path:
    """Writes the fusion of a routed model or pipeline; returns the folder.

    Args:
        target: routed.
        folder: is made if it does not exist.

    Raises:
        ValueError: the model or pipeline is not routed.
    """
    folder, routing, model = Path(folder), find_routing(target), host_model(target)
    values = {
        "host": routing.host.model,
        "host_config": digest(model),
        "fusion": routing.strategy,
        "fusion_options": routing.options,
        "fusion_source": source_of(type(routing.fusion)),
        "layers": routing.layers,
        "text_channels": routing.channels,
        "versions": versions(),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in routing.state_dict().items()}
    with whole_file(folder / WEIGHTS) as path:
        save_file(tensors, path)
    write_json(folder / CONFIG, values)
    return folder


def load_routing(target: Routable, name: str | Path) -> Routable:
    """Puts a saved fusion into the host that it was trained in; returns the same model or pipeline, routed.

    Args:
        target: a pipeline; or its model alone, whose text encoder is then the caller's matter, see `capture`.
        name: folder or hub name.

    Raises:
        ValueError: there is no adapter, or it is of another host or of a fusion that is not registered.
    """
    folder, model = _find(name), host_model(target)
    values, tensors = _read_config(folder), load_file(folder / WEIGHTS)
    seen, wanted = (type(model).__name__, digest(model)), (values["host"], values["host_config"])
    if seen[0] != wanted[0]:
        raise ValueError(f"The routing in {folder} was trained in a {wanted[0]}, not in a {seen[0]}.")
    if seen[1] != wanted[1]:
        raise ValueError(
            f"The routing in {folder} was trained in a {wanted[0]} of another configuration: "
            f"the digest of this one is {seen[1][:12]}, not {wanted[1][:12]}."
        )
    if values["fusion"] not in FUSIONS:
        raise ValueError(
            f"The routing in {folder} is of the fusion strategy {values['fusion']!r}, which is not registered: import "
            f"{values['fusion_source'].rpartition('.')[0]}, which defines it, first."
        )
    encoder, host = None, None
    if not isinstance(target, nn.Module):
        _, encoder, host = parts(target)
        sizes = EncoderSizes.of(encoder)
        if sizes.channels != values["text_channels"] or sizes.num_layers < max(values["layers"]):
            raise ValueError(
                f"The routing in {folder} reads layer {max(values['layers'])} and {values['text_channels']} channels, "
                f"but the text encoder has {sizes.num_layers} layers of {sizes.channels} channels."
            )
    routing = attach_fusion(
        model, values["fusion"], values["layers"], values["text_channels"], values["fusion_options"]
    )
    routing.load_state_dict(tensors)
    if encoder is not None and host is not None:
        capture(encoder, routing.layers, host.reads)
    return target


def digest(model: nn.Module) -> str:
    """A digest of a model's configuration: of what makes its shapes and its computation, not of where it came from."""
    values = {key: value for key, value in config_of(model).items() if not key.startswith("_")}
    return sha256(json.dumps(values, sort_keys=True, default=str))


def _find(name: str | Path) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=[WEIGHTS, CONFIG]))
        except (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
            raise ValueError(
                f"{str(name)!r} is neither the folder of a routing nor a hub name that can be reached."
            ) from error
    missing = [file for file in (WEIGHTS, CONFIG) if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"{folder} is not the folder of a routing: it has no {missing[0]}.")
    return folder


def _read_config(folder: Path) -> JsonObject:
    values = read_json_object(folder / CONFIG)
    lacking = {"host", "host_config", "fusion", "fusion_options", "fusion_source", "layers", "text_channels"} - set(
        values
    )
    if lacking:
        raise ValueError(f"{folder / CONFIG} lacks {sorted(lacking)[0]!r}.")
    return values
