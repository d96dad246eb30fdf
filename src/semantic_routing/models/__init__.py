"""The diffusion transformer, as a `diffusers` model."""

from .transformer import SemanticRoutingTransformer2DModel, TextContext

__all__ = ["SemanticRoutingTransformer2DModel", "TextContext"]
