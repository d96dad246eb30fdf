"""Opens a host, and perhaps the fusion that was trained in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..adapters import load_routing
from ..adapters.run import HostRun, load_host
from .loading import usable_device
from .saved import find_pipeline


def open_host(
    name: str,
    routing: Path | None = None,
    size: int | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    device: str | None = None,
) -> HostRun:
    """A host's pipeline, ready for images of one size.

    Args:
        name: folder or hub name.
        routing: folder of a fusion that is put into it.
        size: pixels a side; None is what the fusion was trained with, or what the host was made for.
        options: more arguments of its call; None is those that the fusion was trained with.
        dtype: of the weights.
        device: default: cuda where there is one.

    Raises:
        ValueError: there is no such pipeline, it is no host, the fusion is not of it, or no size is known.
    """
    target = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipe = load_host(name, dtype).to(target)
    trained: Mapping[str, Any] = {}
    if routing is not None:
        load_routing(pipe, routing)
        trained = find_pipeline(str(routing)).training or {}
    chosen = trained.get("host", {}).get("options", {}) if options is None else options
    return HostRun(pipe, size or trained.get("data", {}).get("image_size"), dict(chosen))
