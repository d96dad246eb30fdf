"""Opens a saved pipeline, or the demo model."""

import torch

from ..io.resources import DEMO
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
        ValueError: the folder holds no pipeline, or there is no such device.
        OSError: there is no such folder or hub name.
    """
    target = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipeline = SemanticRoutingPipeline.from_pretrained(name or DEMO, dtype=getattr(torch, dtype))
    return pipeline.to(target)


def usable_device(name: str) -> torch.device:
    """The device of that name, once a tensor was put on it."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch was built without it, it is absent, or nothing is so named
        raise ValueError(f"Device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
