"""A pipeline that reads fewer language-model layers."""

from collections.abc import Sequence

from ..text.early_exit import first_layers
from .replace import replace_fusion
from .semantic_routing import SemanticRoutingPipeline


def prune_pipeline(
    pipeline: SemanticRoutingPipeline, kept: Sequence[int], shorten: bool = False
) -> SemanticRoutingPipeline:
    """A pipeline that shares all other weights with `pipeline` and reads only the layers at positions `kept`.

    Args:
        pipeline: a pipeline whose transformer has a fusion.
        kept: positions in the fusion's stack, rising.
        shorten: give it a language model with no more layers than it needs.

    Raises:
        ValueError: the fusion cannot drop layers.
    """
    layers = [pipeline.prompt_encoder.layers[position] for position in kept]
    language_model = pipeline.text_encoder
    # One layer more than is read, since the last one's output is only to be had after the final norm.
    if shorten and max(layers) + 1 < language_model.config.num_hidden_layers:
        language_model = first_layers(language_model, max(layers) + 1)
    return replace_fusion(pipeline, pipeline.transformer.fusion.keep_layers(kept), layers, language_model)
