"""Opens a saved pipeline, or the demo model."""

from pathlib import Path

import torch

from ..fusion.saved import current_name
from ..io.files import read_json_object
from ..io.messages import one_sentence
from ..io.resources import DEMO, resolve_pipeline
from ..io.tensors import check_finite, tensor_names
from .semantic_routing import SemanticRoutingPipeline


def load_pipeline(
    name: str | None = None, dtype: str = "float32", device: str | None = None
) -> SemanticRoutingPipeline:
    """Opens a saved pipeline.

    Args:
        name: folder, hub name or `demo`; None is the demo model.
        dtype: of the weights.
        device: default: cuda where there is one.

    Raises:
        ValueError: the folder holds no pipeline or a damaged one, or there is no such device.
        OSError: there is no such folder or hub name.
    """
    target = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = name or DEMO
    folder = Path(resolve_pipeline(name))
    for path in sorted(folder.glob("*/*config.json")):
        read_json_object(path)  # diffusers would take what is no object for a name on the hub
    for path in sorted(folder.glob("*/*.safetensors")):
        if not (path.parent / "config.json").is_file():  # transformers would invent a model of many GiB
            raise ValueError(f"{path.parent} has weights and no config.json.")
    with one_sentence(f"The pipeline {name}"):
        pipeline = SemanticRoutingPipeline.from_pretrained(name, dtype=getattr(torch, dtype), use_safetensors=True)
    for part, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            check_component(component, folder / part)
    return pipeline.to(target)


def check_component(component: torch.nn.Module, folder: Path) -> None:
    """Refuses a model whose files lacked weights, which were then invented, or hold some that are not numbers.

    Raises:
        ValueError: naming the first such weight.
    """
    weights = component.state_dict()
    stored = {current_name(key) for path in folder.glob("*.safetensors") for key in tensor_names(path)}
    ends = {end for key in stored for end in _ends(key)}  # prefixes differ between a model and one within another
    found = {key for key in weights if not stored or key in ends or not stored.isdisjoint(_ends(key))}
    places = {weights[key].data_ptr() for key in found}  # weights that are tied are stored once
    for key, weight in weights.items():
        if weight.is_meta or (key not in found and weight.data_ptr() not in places):
            raise ValueError(f"The weights in {folder} lack {key}.")
    check_finite(weights.items(), f"The model in {folder}")


def _ends(key: str) -> list[str]:
    """`a.b.c`, `b.c` and `c`."""
    return [key.split(".", count)[-1] for count in range(key.count(".") + 1)]


def usable_device(name: str) -> torch.device:
    """The device of that name, once a tensor was put on it."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch was built without it, it is absent, or nothing is so named
        raise ValueError(f"Device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
