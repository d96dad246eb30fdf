"""`diffusers` pipelines; sampling lives here and nowhere else."""

from .semantic_routing import SemanticRoutingPipeline

__all__ = ["SemanticRoutingPipeline"]
