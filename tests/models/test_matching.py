from typing import Any

import pytest
from tiny import TRANSFORMER_SIZES

from semantic_routing.fusion import FUSIONS
from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.flops import count_parameters
from semantic_routing.models.matching import matched_width

TARGET = 200_000


def parameters(**options: Any) -> int:
    return sum(count_parameters(SemanticRoutingTransformer2DModel(**{**TRANSFORMER_SIZES, **options})).values())


@pytest.mark.parametrize("strategy", [name for name in FUSIONS if not name.startswith("test-")])
def test_the_matched_width_is_the_nearest(strategy: str) -> None:
    options = {"depth": 1, "refiners": 0} if strategy == "layer-attention" else {}
    width = matched_width(strategy, TARGET, options, **TRANSFORMER_SIZES)
    off = [
        abs(parameters(strategy=strategy, fusion_options=options, context_channels=near) - TARGET)
        for near in (width - 1, width, width + 1)
    ]
    assert off[1] == min(off)
    assert off[1] / TARGET < 0.01


def test_the_width_that_a_model_has_is_found_again() -> None:
    assert matched_width("joint", parameters(strategy="joint"), **TRANSFORMER_SIZES) == 32


def test_a_target_below_everything_else_is_refused() -> None:
    with pytest.raises(ValueError, match="joint cannot have 1,000 parameters here: at the least it has"):
        matched_width("joint", 1000, **TRANSFORMER_SIZES)
