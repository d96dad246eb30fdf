"""The diffusion transformers, as `diffusers` models, by the strategy with which text reaches their blocks."""

from ..fusion import STRATEGIES
from .backbone import DiffusionTransformer2DModel, TextContext
from .fusedit import FuseDiTTransformer2DModel
from .transformer import SemanticRoutingTransformer2DModel

TRANSFORMERS: dict[str, type[DiffusionTransformer2DModel]] = {
    **dict.fromkeys(STRATEGIES, SemanticRoutingTransformer2DModel),
    "fusedit": FuseDiTTransformer2DModel,
}

__all__ = [
    "TRANSFORMERS",
    "DiffusionTransformer2DModel",
    "FuseDiTTransformer2DModel",
    "SemanticRoutingTransformer2DModel",
    "TextContext",
]
