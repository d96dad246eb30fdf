import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_routing.scenes import (
    COLORS,
    SHAPES,
    SKILLS,
    Background,
    Compare,
    Count,
    Description,
    Every,
    Related,
    Scene,
    SceneObject,
    claim_from_dict,
    sample_scene,
)
from semantic_routing.scenes.geometry import contact_distance, related
from semantic_routing.scenes.world import PARTS, RADII, UNKNOWN

place = st.floats(0, 1, allow_nan=False)
thing = st.builds(
    SceneObject,
    shape=st.sampled_from(SHAPES),
    color=st.sampled_from(list(COLORS)),
    size=st.sampled_from(list(RADII)),
    x=place,
    y=place,
    part=st.sampled_from(PARTS),
)
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def circle(x: float, y: float, color: str = "red", size: str = "small", part: str = "solid") -> SceneObject:
    return SceneObject("circle", color, size, x, y, part)


@pytest.mark.parametrize("skill", SKILLS)
def test_claims_survive_json(skill: str) -> None:
    for index in range(6):
        for claim in sample_scene(0, index, skills=[skill]).claims:
            assert claim_from_dict(json.loads(json.dumps(claim.to_dict()))) == claim
            assert str(claim)


@given(thing, thing)
def test_opposite_relations_agree(a: SceneObject, b: SceneObject) -> None:
    held = [relation for relation in OPPOSITE if related(relation, a, b)]
    assert len(held) <= 1
    for relation, opposite in OPPOSITE.items():
        assert related(relation, a, b) == related(opposite, b, a)


@given(thing, thing)
def test_touching_is_mutual(a: SceneObject, b: SceneObject) -> None:
    assert related("touching", a, b) == related("touching", b, a)


@given(thing, thing)
def test_inside_excludes_touching(a: SceneObject, b: SceneObject) -> None:
    assert not (related("inside", a, b) and related("touching", a, b))
    assert not (related("inside", a, b) and related("inside", b, a))


@pytest.mark.parametrize("step", [(1, 0), (-1, 0), (0, 1), (0, -1)])
@pytest.mark.parametrize("shapes", [(a, b) for a in SHAPES for b in SHAPES])
def test_contact_is_where_touching_begins(shapes: tuple[str, str], step: tuple[int, int]) -> None:
    distance = contact_distance(shapes[0], "large", shapes[1], "small", step)
    a = SceneObject(shapes[0], "red", "large", 0.5, 0.5, "solid")
    at = [
        SceneObject(shapes[1], "blue", "small", 0.5 + step[0] * (distance + d), 0.5 + step[1] * (distance + d), "solid")
        for d in (0.0, 0.08)
    ]
    assert related("touching", a, at[0])
    assert related("touching", at[0], a)
    assert not related("touching", a, at[1])


def test_counts_are_exact() -> None:
    red = Description("circle", "red")
    for number in range(5):
        scene = Scene("grey", tuple(circle(0.1 * i, 0.5) for i in range(number)))
        assert [Count(red, n).holds(scene) for n in range(5)] == [n == number for n in range(5)]


def test_comparisons_need_both_sides() -> None:
    red, blue = Description(color="red"), Description(color="blue")
    one_each = Scene("grey", (circle(0.2, 0.2), circle(0.8, 0.8, "blue")))
    two_red = Scene("grey", (*one_each.objects, circle(0.2, 0.8)))
    assert Compare(red, "equal", blue).holds(one_each)
    assert not Compare(red, "more", blue).holds(one_each)
    assert Compare(red, "more", blue).holds(two_red)
    assert not Compare(blue, "more", red).holds(two_red)
    assert not Compare(red, "more", blue).holds(Scene("grey", (circle(0.2, 0.2),)))


def test_every_needs_an_instance() -> None:
    every = Every(Description("circle"), Description(color="red"))
    assert not every.holds(Scene("grey", ()))
    assert every.holds(Scene("grey", (circle(0.5, 0.5),)))
    assert not every.holds(Scene("grey", (circle(0.2, 0.2), circle(0.8, 0.8, "blue"))))


def test_an_unknown_object_is_counted_by_its_color_and_nothing_else() -> None:
    blob = SceneObject(UNKNOWN, "red", UNKNOWN, 0.2, 0.5, UNKNOWN)
    scene = Scene("grey", (blob, circle(0.8, 0.5)))
    assert Count(Description(color="red"), 2).holds(scene)
    assert not Count(Description(color="red"), 0).holds(scene)
    assert Count(Description("circle"), 1).holds(scene)
    assert Count(Description("circle", "red"), 1).holds(scene)
    assert Count(Description(size="small"), 1).holds(scene)
    assert Count(Description(), 2).holds(scene)
    assert not Related("left", Description(), Description("circle")).holds(scene)
    assert not Every(Description(), Description(color="red")).holds(scene)


def test_background() -> None:
    assert Background("sky").holds(Scene("sky", ()))
    assert not Background("sky").holds(Scene("mint", ()))


def test_impossible_claims_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape is 'blob'.*circle"):
        Description("blob")
    with pytest.raises(ValueError, match=r"relation is 'near'.*touching"):
        Related("near", Description(), Description())
    with pytest.raises(ValueError, match=r"order is 'less'.*more"):
        Compare(Description(), "less", Description())
    with pytest.raises(ValueError, match=r"background is 'void'.*grey"):
        Background("void")
    with pytest.raises(ValueError, match=r"Claim is 'Wish'.*Count"):
        claim_from_dict({"claim": "Wish"})
    with pytest.raises(ValueError, match=r"Count has fields \['description'\].*number"):
        claim_from_dict({"claim": "Count", "description": {}})
