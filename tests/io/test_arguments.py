"""Values from files for arguments of a class."""

from collections.abc import Sequence

import pytest

from semantic_routing.fusion import FUSIONS
from semantic_routing.io.arguments import check_arguments
from semantic_routing.models.config import ModelConfig


class Users:
    def __init__(self, sizes: object, width: int = 3, names: Sequence[str] | None = None, free=None) -> None:  # type: ignore[no-untyped-def]
        self.given = sizes, width, names, free


def complaint(values: dict[str, object]) -> str | None:
    """What is said of the values; None where nothing is."""
    try:
        check_arguments(Users, values, "Users")
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, None),
        ({"width": 4}, None),
        ({"names": ["a"]}, None),
        ({"names": None}, None),
        ({"free": object()}, None),  # has no annotation
        ({"unknown": 1}, None),  # is for Python to refuse
        ({"width": "4"}, "Users takes width as int, not '4'."),
        ({"width": True}, "Users takes width as int, not True."),
        ({"width": 4.0}, "Users takes width as int, not 4.0."),
        ({"names": [1]}, "Users takes names as Sequence[str] | None, not [1]."),
    ],
)
def test_values_have_the_type_of_their_argument(values: dict[str, object], sentence: str | None) -> None:
    assert complaint(values) == sentence


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
