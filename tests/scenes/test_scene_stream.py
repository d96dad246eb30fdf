import re
from collections import Counter
from itertools import combinations
from math import hypot

import pytest

from semantic_routing.scenes import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SKILLS,
    Count,
    Every,
    Related,
    SceneSample,
    held_out_prompts,
    sample_scene,
)
from semantic_routing.scenes.geometry import APART, RELATIONS, gap, is_inside, is_touching
from semantic_routing.scenes.grammar import PLANNERS, Draws
from semantic_routing.scenes.held_out import (
    HELD_OUT,
    NEVER_SHOWN,
    is_held_out_layout,
    is_reserved_caption,
    layout_of,
    shown,
    stated,
)
from semantic_routing.scenes.world import GRID, MAX_OBJECTS, PARTS, RADII, REACH

TRAINING_SAMPLES = 3_000


@pytest.fixture(scope="module")
def training() -> list[SceneSample]:
    return [sample_scene(0, index) for index in range(TRAINING_SAMPLES)]


def test_a_sample_depends_on_its_arguments_alone(training: list[SceneSample]) -> None:
    for index in (2_999, 7, 512, 0):
        assert sample_scene(0, index) == training[index]
    assert len({sample_scene(seed, 3).caption for seed in range(20)}) > 10
    assert sample_scene(0, 5, skills=["counting"]) != sample_scene(0, 5, "held-out", ["counting"])


def test_the_stream_does_not_drift() -> None:
    # A stored value: a run resumed by index must go on with the same samples after an upgrade.
    sample = sample_scene(1, 2, skills=["counting"])
    assert sample.caption == "a drawing of five pink triangles"
    assert [thing.x for thing in sample.scene.objects] == [0.5, 0.25, 0.1875, 0.8125, 0.5625]


def test_scenes_satisfy_their_captions(training: list[SceneSample]) -> None:
    for sample in training:
        broken = [str(claim) for claim in sample.claims if not claim.holds(sample.scene)]
        assert not broken, f"{sample.caption}: {broken}"


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_has_true_claims_in_both_splits(skill: str) -> None:
    for split in ("train", "held-out"):
        samples = [sample_scene(3, index, split, [skill]) for index in range(60)]
        assert {sample.skill for sample in samples} == {skill}
        assert all(claim.holds(sample.scene) for sample in samples for claim in sample.claims)
        assert all(sample.claims for sample in samples)


def test_centers_lie_on_the_grid_unless_objects_touch(training: list[SceneSample]) -> None:
    for sample in training[:2000]:
        touching = any("touching" in str(claim) for claim in sample.claims)
        free = [thing for thing in sample.scene.objects if (thing.x * GRID) % 1 or (thing.y * GRID) % 1]
        assert len(free) <= touching, sample.caption


@pytest.mark.parametrize("spacing", [2, 4])
def test_a_coarser_grid_keeps_captions_true(spacing: int) -> None:
    skills = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    samples = [sample_scene(3, index, skills=skills, spacing=spacing) for index in range(300)]
    assert all(claim.holds(sample.scene) for sample in samples for claim in sample.claims)
    few = [sample.scene for sample in samples if len(sample.scene.objects) <= 2]
    places = [(thing.x, thing.y) for scene in few for thing in scene.objects]
    on_lines = [place for place in places if not any(along * GRID % spacing for along in place)]
    assert len(on_lines) > 0.9 * len(places)  # on all lines a share of 1 in spacing² would be so


@pytest.mark.parametrize(("crowd_spacing", "varied"), [(1, True), (0, True), (4, False)])
def test_a_number_is_no_template(crowd_spacing: int, varied: bool) -> None:
    options = {"skills": ["counting"], "spacing": 4, "crowd_spacing": crowd_spacing}
    scenes = [sample_scene(5, index, **options).scene for index in range(250)]
    layouts = Counter(layout_of(scene) for scene in scenes if len(scene.objects) == 5)
    assert (max(layouts.values()) < 0.2 * layouts.total()) == varied, layouts


def test_training_leaves_out_the_layouts_and_captions_that_it_should(training: list[SceneSample]) -> None:
    assert not any(is_held_out_layout(sample.scene) or is_reserved_caption(sample.caption) for sample in training)
    held_out = [is_held_out_layout(sample_scene(0, i, "held-out", ["counting"]).scene) for i in range(300)]
    assert 0.02 < sum(held_out) / len(held_out) < 0.15


def test_unseen_captions_speak_of_what_training_speaks_of() -> None:
    for index in range(100):
        sample = sample_scene(0, index, "unseen")
        assert is_reserved_caption(sample.caption)
        assert HELD_OUT.isdisjoint(stated(sample.claims))
        assert NEVER_SHOWN.isdisjoint(shown(sample.scene))


def test_dense_captions_tell_objects_apart() -> None:
    alike = 0
    for index in range(1000):
        sentences = PLANNERS["scene"][0](Draws(str(index), 0.3)).caption.rstrip(".").split(". ")[1:]
        for sentence in sentences:
            subject, anchor = re.findall(r"[Tt]he ((?:\w+ )+?(?:circle|square|triangle|star|cross|heart))", sentence)
            assert subject != anchor, sentence
            alike += subject.split()[-2:] == anchor.split()[-2:]
    assert alike  # without this the test says nothing


def test_what_finds_no_room_on_a_coarse_grid_lies_on_the_fine_one() -> None:
    crowded = [sample_scene(5, index, skills=["scene"], spacing=4) for index in range(40)]
    assert max(len(sample.scene.objects) for sample in crowded) == MAX_OBJECTS
    assert all(claim.holds(sample.scene) for sample in crowded for claim in sample.claims)


def test_no_object_goes_unmentioned(training: list[SceneSample]) -> None:
    """Whatever is in the picture fits a description that the caption counts, compares or speaks of."""
    for sample in training:
        descriptions = [value for claim in sample.claims for value in vars(claim).values() if hasattr(value, "matches")]
        for thing in sample.scene.objects:
            assert any(description.matches(thing) for description in descriptions), sample.caption


def test_counting_captions_count_everything() -> None:
    for index in range(200):
        sample = sample_scene(0, index, skills=["counting"])
        counted = sample.claims[0]
        assert isinstance(counted, Count)
        assert counted.number == len(sample.scene.objects)


def test_objects_lie_in_the_picture_and_apart(training: list[SceneSample]) -> None:
    for sample in training[:2000]:
        for thing in sample.scene.objects:
            reach = thing.radius * REACH
            assert reach <= min(thing.x, thing.y)
            assert max(thing.x, thing.y) <= 1 - reach
        related = {claim.relation for claim in sample.claims if isinstance(claim, Related)}
        for a, b in combinations(sample.scene.objects, 2):
            if is_inside(a, b) or is_inside(b, a):
                assert "inside" in related
            elif is_touching(a, b):
                assert "touching" in related
                assert gap(a, b) > -0.01
            else:
                assert hypot(a.x - b.x, a.y - b.y) >= REACH * (a.radius + b.radius) + APART


def test_training_holds_no_held_out_combination(training: list[SceneSample]) -> None:
    for sample in training:
        found = NEVER_SHOWN & shown(sample.scene) | HELD_OUT & stated(sample.claims)
        assert not found, f"{sample.caption}: {found}"


def test_every_value_on_its_own_is_plentiful_in_training(training: list[SceneSample]) -> None:
    things = [thing for sample in training for thing in sample.scene.objects]
    for attribute, values in (("shape", SHAPES), ("color", COLORS), ("part", PARTS), ("size", RADII)):
        counts = Counter(getattr(thing, attribute) for thing in things)
        assert all(counts[value] > 75 for value in values), counts
    backgrounds = Counter(sample.scene.background for sample in training)
    assert all(backgrounds[name] > 300 for name in BACKGROUNDS)
    relations = Counter(c.relation for sample in training for c in sample.claims if isinstance(c, Related))
    assert all(relations[relation] > 25 for relation in RELATIONS), relations
    numbers = Counter(len(sample.scene.objects) for sample in training if sample.skill == "counting")
    assert all(numbers[number] > 60 for number in range(1, 6)), numbers
    assert {len(sample.scene.objects) for sample in training} == set(range(1, MAX_OBJECTS + 1))
    assert all(count > 30 for count in Counter(sample.skill for sample in training).values())


def test_every_combination_that_is_not_held_out_occurs_in_training(training: list[SceneSample]) -> None:
    seen = set().union(*(shown(sample.scene) for sample in training))
    wanted = {("color", color, shape) for color in COLORS for shape in SHAPES}
    wanted |= {("number", str(number), shape) for number in range(1, 6) for shape in SHAPES}
    wanted |= {("part", part, shape) for part in PARTS for shape in SHAPES}
    wanted |= {("background", name, shape) for name in BACKGROUNDS for shape in SHAPES}
    wanted |= {(way, a, b) for way in ("left", "above") for a in SHAPES for b in SHAPES}
    assert wanted - NEVER_SHOWN <= seen


def test_there_are_more_than_100_000_captions() -> None:
    """Lincoln and Petersen's estimate from the overlap of two draws; it errs low where captions are unevenly likely."""
    first, second = (
        {sample_scene(seed, index, skills=["spatial_relation"]).caption for index in range(1500)} for seed in (1, 2)
    )
    assert len(first) * len(second) / max(1, len(first & second)) > 100_000


def test_captions_are_short_enough(training: list[SceneSample]) -> None:
    lengths = [len(re.findall(r"\w+|[^\w\s]", sample.caption)) for sample in training]
    assert 45 < max(lengths) <= 62
    assert sum(length <= 12 for length in lengths) > 0.6 * len(lengths)


def test_a_skill_named_twice_is_drawn_twice_as_often() -> None:
    drawn = Counter(sample_scene(0, index, skills=["colors", "position", "colors"]).skill for index in range(1000))
    assert drawn["colors"] == pytest.approx(500, abs=60)  # shares of 7 and 14


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_prompts_differ_and_ask_for_what_training_never_asks_for(skill: str) -> None:
    prompts = held_out_prompts(skill, 40)
    assert len({prompt.caption for prompt in prompts}) == 40
    for prompt in prompts:
        assert HELD_OUT & stated(prompt.claims) & shown(prompt.scene), prompt.caption
    assert held_out_prompts(skill, 10) == prompts[:10]


def test_held_out_counts_are_all_tested() -> None:
    numbers = Counter(len(prompt.scene.objects) for prompt in held_out_prompts("counting", 60))
    assert all(numbers[number] >= 4 for number in range(1, 6)), numbers


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'test'.*held-out"):
        sample_scene(0, 0, "test")
    with pytest.raises(ValueError, match=r"'juggling'.*counting"):
        sample_scene(0, 0, skills=["juggling"])
    with pytest.raises(ValueError, match=r"200 distinct.*single_object"):
        held_out_prompts("single_object", 200)


def test_universal_claims_leave_no_exception() -> None:
    for index in range(100):
        sample = sample_scene(4, index, skills=["universality"])
        every = next(claim for claim in sample.claims if isinstance(claim, Every))
        assert all(every.quality.matches(thing) for thing in every.description.among(sample.scene))
