"""A pipeline that reads fewer language-model layers."""

from collections.abc import Sequence

from .replace import replace_fusion
from .semantic_routing import SemanticRoutingPipeline


def prune_pipeline(pipeline: SemanticRoutingPipeline, kept: Sequence[int]) -> SemanticRoutingPipeline:
    """A pipeline that shares all other weights with `pipeline` and reads only the layers at positions `kept`.

    Its language model has no more layers than it needs.

    Args:
        pipeline: a pipeline whose transformer has a fusion.
        kept: positions in the fusion's stack, rising.

    Raises:
        ValueError: the fusion cannot drop layers.
    """
    layers = [pipeline.prompt_encoder.layers[position] for position in kept]
    return replace_fusion(pipeline, pipeline.transformer.fusion.keep_layers(kept), layers)
