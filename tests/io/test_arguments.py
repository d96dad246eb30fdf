"""Values from files for arguments of a class."""

from collections.abc import Sequence

import pytest

from semantic_routing.fusion import FUSIONS
from semantic_routing.io.arguments import check_arguments
from semantic_routing.models.config import ModelConfig


class Users:
    def __init__(self, sizes: object, width: int = 3, names: Sequence[str] | None = None, free=None) -> None:  # type: ignore[no-untyped-def]
        self.given = sizes, width, names, free


@pytest.mark.parametrize(
    "values", [{}, {"width": 4}, {"names": ["a"]}, {"names": None}, {"free": object()}, {"unknown": 1}]
)
def test_values_that_fit_or_cannot_be_judged(values: dict[str, object]) -> None:
    check_arguments(Users, values, "Users")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"width": "4"}, "Users takes width as int, not '4'."),
        ({"width": True}, "Users takes width as int, not True."),
        ({"width": 4.0}, "Users takes width as int, not 4.0."),
        ({"names": [1]}, r"Users takes names as Sequence\[str\] \| None, not \[1\]."),
    ],
)
def test_values_of_another_type(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        check_arguments(Users, values, "Users")


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("token-wise", {"rank": "a"}),
        ("concat", {"layers": None}),
        ("concat", {"layers": [[0]]}),
        ("layer-map", {"layers": 3}),
        ("bundles", {"bundles": 1.5}),
        ("layer-attention", {"refiners": 1.5}),
    ],
)
def test_a_config_s_options_have_the_types_of_the_fusion(strategy: str, options: dict[str, object]) -> None:
    assert ModelConfig(strategy=strategy).strategy in FUSIONS
    (name,) = options
    with pytest.raises(ValueError, match=f"fusion strategy '{strategy}' takes {name} as "):
        ModelConfig(strategy=strategy, fusion_options=options)
