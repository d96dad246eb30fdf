"""Tokens of claims hold all that the claims hold."""

import numpy as np

from semantic_routing.scenes import (
    HARD_SKILLS,
    ORACLE_FIELDS,
    SKILLS,
    Claim,
    Count,
    Description,
    Ordinal,
    Related,
    Scene,
    SceneObject,
    oracle_tokens,
    sample_scene,
)
from semantic_routing.scenes.world import UNKNOWN


def test_different_claims_have_different_tokens() -> None:
    claim_of: dict[tuple[int, ...], Claim] = {}
    for skill in (*SKILLS, *HARD_SKILLS):
        for index in range(25):
            claims = sample_scene(1, index, skills=[skill]).claims
            tokens = oracle_tokens(claims)
            assert tokens.shape == (len(claims), len(ORACLE_FIELDS))
            for token, claim in zip(tokens.tolist(), claims, strict=True):
                assert claim_of.setdefault(tuple(token), claim) == claim
    assert len(claim_of) > 300


def test_ids_lie_within_their_fields() -> None:
    tokens = np.concatenate([oracle_tokens(sample_scene(1, index).claims) for index in range(200)])
    assert (tokens >= 0).all()
    assert (tokens.max(0) <= [len(values) for values in ORACLE_FIELDS.values()]).all()


def test_a_relation_names_its_side_and_both_objects() -> None:
    token = oracle_tokens([Related("above", Description("star", "red"), Description("cross"))])[0]
    said = {name: values[i - 1] for (name, values), i in zip(ORACLE_FIELDS.items(), token, strict=True) if i}
    assert said == {"claim": "Related", "relation": "above", "shape": "star", "color": "red", "other_shape": "cross"}
    assert oracle_tokens([]).shape == (0, len(ORACLE_FIELDS))
    assert oracle_tokens([Count(Description(), 0)])[0].tolist()[:2] == [1, 1]


def test_an_ordinal_counts_from_its_side_and_needs_a_clear_order() -> None:
    def at(x: float, color: str, shape: str = "circle") -> SceneObject:
        return SceneObject(shape, color, "small", x, 0.5, "solid")

    scene = Scene("grey", (at(0.8, "blue"), at(0.2, "red"), at(0.5, "green")))
    for number, color in enumerate(("red", "green", "blue"), start=1):
        assert Ordinal(number, "left", Description(color=color)).holds(scene)
        assert Ordinal(4 - number, "right", Description(color=color)).holds(scene)
        assert not Ordinal(number, "left", Description(color="pink")).holds(scene)
    assert not Ordinal(4, "left", Description()).holds(scene)
    assert not Ordinal(1, "above", Description(color="red")).holds(scene)
    blob = Scene("grey", (at(0.2, "red", UNKNOWN), at(0.5, "green")))
    assert not Ordinal(1, "left", Description(color="red")).holds(blob)
