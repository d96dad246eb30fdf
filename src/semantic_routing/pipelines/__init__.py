"""`diffusers` pipelines; sampling lives here and nowhere else."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .image_to_image import SemanticRoutingImg2ImgPipeline
    from .inpaint import SemanticRoutingInpaintPipeline
    from .semantic_routing import SemanticRoutingPipeline

__all__ = ["SemanticRoutingImg2ImgPipeline", "SemanticRoutingInpaintPipeline", "SemanticRoutingPipeline"]

_MODULES = {
    "SemanticRoutingImg2ImgPipeline": "image_to_image",
    "SemanticRoutingInpaintPipeline": "inpaint",
    "SemanticRoutingPipeline": "semantic_routing",
}


def __getattr__(name: str) -> object:
    """A pipeline, when it is asked for: what reads a pipeline's small files alone needs no `diffusers`."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
