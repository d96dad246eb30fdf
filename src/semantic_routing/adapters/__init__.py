"""A fusion inside a host: a diffusion model of another project reads all layers of its own text encoder.

>>> from semantic_routing.adapters import add_routing, find_routing, load_routing, save_routing
>>> pipe = add_routing(pipe, fusion="depth-wise")  # doctest: +SKIP
>>> optimizer = torch.optim.AdamW(find_routing(pipe).parameters(), lr=1e-3)  # doctest: +SKIP
>>> save_routing(pipe, "my-routing")  # doctest: +SKIP
"""

from .attach import (
    add_routing,
    attach,
    detach,
    find_routing,
    remove_routing,
    set_fusion_scale,
    set_layer_gains,
    set_routing_scale,
)
from .capture import capture, release, widen
from .hosts import HOSTS, Host
from .routing import Routing
from .saving import load_routing, save_routing

__all__ = [
    "HOSTS",
    "Host",
    "Routing",
    "add_routing",
    "attach",
    "capture",
    "detach",
    "find_routing",
    "load_routing",
    "release",
    "remove_routing",
    "save_routing",
    "set_fusion_scale",
    "set_layer_gains",
    "set_routing_scale",
    "widen",
]
