"""The diffusion transformers, as `diffusers` models, by kind: how text reaches their blocks."""

from ..io.registry import Registry
from .backbone import DiffusionTransformer2DModel, TextContext
from .fusedit import FuseDiTTransformer2DModel
from .transformer import SemanticRoutingTransformer2DModel

MODELS: Registry[type[DiffusionTransformer2DModel]] = Registry("model kind")
MODELS.register("routed")(SemanticRoutingTransformer2DModel)
MODELS.register("fusedit")(FuseDiTTransformer2DModel)

__all__ = [
    "MODELS",
    "DiffusionTransformer2DModel",
    "FuseDiTTransformer2DModel",
    "SemanticRoutingTransformer2DModel",
    "TextContext",
]
