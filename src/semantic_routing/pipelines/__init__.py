"""`diffusers` pipelines; sampling lives here and nowhere else."""

import diffusers

from .semantic_routing import SemanticRoutingPipeline

# Where `DiffusionPipeline.from_pretrained` looks for the class that a folder names.
diffusers.SemanticRoutingPipeline = SemanticRoutingPipeline

__all__ = ["SemanticRoutingPipeline"]
