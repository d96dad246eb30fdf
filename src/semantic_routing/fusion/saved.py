"""The fusion that a saved transformer's configuration names."""

from collections.abc import Mapping
from typing import Any

from .contract import FUSIONS, FusionSizes, TextFusion

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "routing.safetensors", "routing_config.json"
"""Files of a fusion that was made for a host, see `adapters.save_routing`."""


def fusion_sizes(config: Mapping[str, Any]) -> FusionSizes:
    """What the fusion of a transformer with this configuration is built for."""
    return FusionSizes(
        config["num_text_layers"],
        config["num_blocks"],
        config.get("text_channels"),
        config.get("hidden_size"),
        config.get("num_key_value_heads"),
    )


def current_name(name: str) -> str:
    """The name of a saved tensor; in version 0.1 the fusion was a router's strategy."""
    if not name.startswith("router.strategy."):
        return name
    bare = name.removeprefix("router.strategy.")
    return "fusion." + ("beta" if bare == "logits" else bare)


def find_fusion(strategy: str, source: str | None) -> type[TextFusion]:
    """The fusion called `strategy`.

    Raises:
        ValueError: it is not registered; the message names `source`, the class that the model was trained with.
    """
    if strategy not in FUSIONS and source is not None:
        raise ValueError(
            f"The model was trained with the fusion strategy {strategy!r}, which is not registered: import "
            f"{source.rpartition('.')[0]}, which defines it, first (sroute has --import for that)."
        )
    return FUSIONS.find(strategy)
