"""Models of different fusion strategies with equally many parameters."""

from collections.abc import Mapping

import torch

from .flops import count_parameters
from .transformer import SemanticRoutingTransformer2DModel


def matched_width(
    strategy: str, parameters: int, fusion_options: Mapping[str, object] | None = None, **sizes: object
) -> int:
    """The `context_channels` at which a transformer has as nearly as can be `parameters`.

    They are the dial because they touch what a fusion feeds and nothing else: the context embedder and the projections
    of text to keys and values. The number of parameters is linear in them.

    Args:
        strategy: fusion strategy.
        parameters: wanted, of the whole transformer.
        fusion_options: of the strategy.
        sizes: the other arguments of `SemanticRoutingTransformer2DModel`.

    Raises:
        ValueError: the transformer has more parameters even with one channel.
    """

    def count(width: int) -> int:
        with torch.device("meta"):
            model = SemanticRoutingTransformer2DModel(
                **{**sizes, "strategy": strategy, "fusion_options": fusion_options, "context_channels": width}
            )
        return sum(count_parameters(model).values())

    least = count(1)
    width = 1 + round((parameters - least) / (count(2) - least))
    if width < 1:
        raise ValueError(f"{strategy} cannot have {parameters:,} parameters here: at the least it has {least:,}.")
    return width
