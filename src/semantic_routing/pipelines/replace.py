"""A pipeline with another fusion on the same backbone."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from ..fusion import FUSIONS, TextFusion
from ..fusion.saved import fusion_sizes
from ..models.transformer import ContextEmbedder
from .semantic_routing import SemanticRoutingPipeline


def replace_fusion(
    pipeline: SemanticRoutingPipeline,
    fusion: TextFusion,
    text_layers: Sequence[int],
    text_encoder: PreTrainedModel | None = None,
    **config: object,
) -> SemanticRoutingPipeline:
    """A pipeline that reads `text_layers` through `fusion`, and shares all other weights with `pipeline`.

    Args:
        pipeline: a pipeline whose transformer has a fusion.
        fusion: for as many layers. Where its context has another width, the context embedder is a new, untrained one.
        text_layers: layers of the language model.
        text_encoder: the language model; None is the pipeline's own.
        config: what else changes in the transformer's config.
    """
    transformer = pipeline.transformer
    own = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        other = type(transformer)(**{**own, **config, "num_text_layers": len(text_layers)})
    for name, child in transformer.named_children():
        setattr(other, name, child)
    if fusion.out_channels != transformer.fusion.out_channels:
        width = transformer.context_embedder.linear.out_features
        embedder = ContextEmbedder(fusion.out_channels, width, own["norm_eps"])
        other.context_embedder = embedder.to(transformer.device, transformer.dtype)
    other.fusion = fusion.to(transformer.device)
    components = pipeline.components | {"transformer": other.eval()}
    if text_encoder is not None:
        components["text_encoder"] = text_encoder
    options = {name: value for name, value in pipeline.config.items() if not name.startswith("_")}
    return type(pipeline)(**{**options, **components, "text_layers": list(text_layers)})


def with_strategy(
    pipeline: SemanticRoutingPipeline, strategy: str, fusion_options: Mapping[str, object] | None = None
) -> SemanticRoutingPipeline:
    """A pipeline of another strategy, untrained, that reads all layers that it can of the same language model.

    Raises:
        ValueError: the strategy is unknown, or cannot be built for these sizes and options.
    """
    transformer = pipeline.transformer
    config, options = transformer.config, fusion_options or {}
    everything = type(pipeline.prompt_encoder).resolve("all", pipeline.text_encoder.config)
    layers = type(transformer).layers_read(everything, config.num_blocks, strategy, options)
    fusion = FUSIONS.find(strategy)(fusion_sizes({**config, "num_text_layers": len(layers)}), **options)
    return replace_fusion(pipeline, fusion, layers, strategy=strategy, fusion_options=options, fusion_source=None)
