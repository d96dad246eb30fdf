"""`diffusers` pipelines; sampling lives here and nowhere else."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .semantic_routing import SemanticRoutingPipeline

__all__ = ["SemanticRoutingPipeline"]


def __getattr__(name: str) -> Any:
    """The pipeline, when it is asked for: what reads a pipeline's small files alone needs no `diffusers`."""
    if name != "SemanticRoutingPipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .semantic_routing import SemanticRoutingPipeline

    return SemanticRoutingPipeline
