"""`diffusers` pipelines; sampling lives here and nowhere else."""

import diffusers

from .image_to_image import SemanticRoutingImg2ImgPipeline
from .semantic_routing import SemanticRoutingPipeline

# Where `DiffusionPipeline.from_pretrained` looks for the class that a folder names.
diffusers.SemanticRoutingPipeline = SemanticRoutingPipeline
diffusers.SemanticRoutingImg2ImgPipeline = SemanticRoutingImg2ImgPipeline

__all__ = ["SemanticRoutingImg2ImgPipeline", "SemanticRoutingPipeline"]
