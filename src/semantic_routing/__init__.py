"""Semantic routing: diffusion transformers that learn which language-model layers to listen to (arXiv 2602.03510)."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fusion import SemanticRouter
    from .models import FuseDiTTransformer2DModel, SemanticRoutingTransformer2DModel
    from .pipelines import SemanticRoutingPipeline

__version__ = "0.1.0"

# Imported when asked for: the router needs torch alone, and `diffusers` looks for a pipeline's classes here.
_EXPORTS = {
    "FuseDiTTransformer2DModel": ".models",
    "SemanticRouter": ".fusion",
    "SemanticRoutingPipeline": ".pipelines",
    "SemanticRoutingTransformer2DModel": ".models",
}

__all__ = [
    "FuseDiTTransformer2DModel",
    "SemanticRouter",
    "SemanticRoutingPipeline",
    "SemanticRoutingTransformer2DModel",
]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
