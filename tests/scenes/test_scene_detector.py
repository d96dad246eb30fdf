from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from semantic_routing.scenes import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    Claim,
    Count,
    Description,
    Related,
    Scene,
    SceneObject,
    SceneSample,
    detect,
    judge,
    render,
    sample_scene,
)
from semantic_routing.scenes.world import UNKNOWN

SAMPLES = 500
SIDES = (32, 48, 64)


def degraded(picture: np.ndarray, seed: int) -> np.ndarray:
    """Blur of 0.6 pixels at side 32 and noise of 12/255: what a young model makes of a picture."""
    noise = np.random.default_rng(seed).normal(0, 12, picture.shape)
    blurred = gaussian_filter(picture.astype(float), 0.6 * len(picture) / 32, axes=(0, 1))
    return np.clip(blurred + noise + 0.5, 0, 255).astype(np.uint8)


@cache
def samples() -> list[SceneSample]:
    return [sample_scene(7, index, "held-out" if index % 4 == 0 else "train") for index in range(SAMPLES)]


@cache
def readings(side: int, degrade: bool) -> list[Scene]:
    pictures = (render(sample.scene, side) for sample in samples())
    return [detect(degraded(picture, i) if degrade else picture) for i, picture in enumerate(pictures)]


def altered(claim: Claim) -> list[Claim]:
    """Claims close to `claim`: another number, color, shape or direction."""
    if isinstance(claim, Count) and claim.number > 0:
        described = claim.description
        others = [Count(described, claim.number + 1), Count(described, claim.number - 1)]
        if described.color:
            others += [Count(replace(described, color=color), claim.number) for color in COLORS]
        if described.shape:
            others += [Count(replace(described, shape=shape), claim.number) for shape in SHAPES]
        if described.size:
            others += [Count(replace(described, size=size), claim.number) for size in ("small", "large")]
        return others
    if isinstance(claim, Related):
        return [replace(claim, relation=relation) for relation in ("left", "right", "above", "below", "touching")]
    return []


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("degrade", "wanted"), [(False, 0.995), (True, 0.98)], ids=["clean", "degraded"])
def test_true_claims_are_accepted_and_false_ones_rejected(side: int, degrade: bool, wanted: float) -> None:
    accepted, rejected, rejected_close = [], [], []
    for index, (sample, seen) in enumerate(zip(samples(), readings(side, degrade), strict=True)):
        accepted += [claim.holds(seen) for claim in sample.claims]
        foreign = [claim for shift in (1, 5, 50) for claim in samples()[(index + shift) % SAMPLES].claims]
        close = [other for claim in sample.claims for other in altered(claim)]
        rejected += [not claim.holds(seen) for claim in foreign if not claim.holds(sample.scene)]
        rejected_close += [not claim.holds(seen) for claim in close if not claim.holds(sample.scene)]
    assert np.mean(accepted) >= wanted
    assert np.mean(rejected) >= wanted
    assert np.mean(rejected_close) >= wanted


@pytest.mark.parametrize("side", SIDES)
def test_clean_pictures_are_read_back_whole(side: int) -> None:
    def described(scene: Scene) -> Counter[tuple[str, ...]]:
        return Counter((thing.shape, thing.color, thing.size, thing.part) for thing in scene.objects)

    exact = 0
    for sample, seen in zip(samples(), readings(side, False), strict=True):
        if seen.background != sample.scene.background or described(seen) != described(sample.scene):
            continue
        exact += 1
        for thing in sample.scene.objects:
            nearest = min(np.hypot(thing.x - other.x, thing.y - other.y) for other in seen.objects)
            assert nearest * side < 0.5
    assert exact >= 0.995 * SAMPLES


@given(
    shape=st.sampled_from(SHAPES),
    color=st.sampled_from(list(COLORS)),
    background=st.sampled_from(list(BACKGROUNDS)),
    size=st.sampled_from(["small", "large"]),
    x=st.floats(0.25, 0.75),
    y=st.floats(0.25, 0.75),
    side=st.sampled_from([32, 41, 64, 96, 256]),
)
@settings(max_examples=150, deadline=None)
def test_any_single_object_is_read_anywhere(
    shape: str, color: str, background: str, size: str, x: float, y: float, side: int
) -> None:
    thing = SceneObject(shape, color, size, x, y, "solid")
    seen = detect(render(Scene(background, (thing,)), side))
    assert seen.background == background
    assert [(o.shape, o.color, o.size, o.part) for o in seen.objects] == [(shape, color, size, "solid")]
    assert np.hypot(seen.objects[0].x - x, seen.objects[0].y - y) < 0.5 / 32


def blob(seed: int, side: int) -> np.ndarray:
    """A spot of one color that fades away and has no outline."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    spread = rng.uniform(0.07, 0.16)
    ink = np.exp(-(x**2 + y**2) / (2 * spread**2))[..., None]
    ground, color = rng.choice(list(BACKGROUNDS.values())), rng.choice(list(COLORS.values()))
    return (ground + ink * (color - ground)).astype(np.uint8)


@pytest.mark.parametrize("side", SIDES)
def test_a_mushy_blob_is_an_unknown_object(side: int) -> None:
    for seed in range(60):
        seen = detect(blob(seed, side))
        assert [thing.shape for thing in seen.objects] == [UNKNOWN]
        assert not any(Count(Description(shape), 1).holds(seen) for shape in SHAPES)
        assert not Count(Description(), 0).holds(seen)


def test_random_outlines_are_hardly_ever_an_object() -> None:
    shapes = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        field = gaussian_filter(rng.normal(size=(32, 32)), 2.2)
        ink = np.clip((field / field.std() - 1.3) * 3, 0, 1)[..., None]
        ground, color = np.array(BACKGROUNDS["grey"]), np.array(COLORS["red"])
        shapes += [thing.shape for thing in detect((ground + ink * (color - ground)).astype(np.uint8)).objects]
    assert len(shapes) > 200
    assert np.mean([shape != UNKNOWN for shape in shapes]) < 0.05


def test_noise_holds_no_known_object() -> None:
    for seed in range(20):
        seen = detect(np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8))
        assert all(thing.shape == UNKNOWN for thing in seen.objects)


def test_an_empty_picture_is_empty() -> None:
    for name in BACKGROUNDS:
        assert detect(render(Scene(name, ()), 32)) == Scene(name, ())


def test_an_extra_object_is_noticed() -> None:
    two = Scene("mint", tuple(SceneObject("circle", "red", "small", x, 0.25, "solid") for x in (0.25, 0.75)))
    three = replace(two, objects=(*two.objects, SceneObject("circle", "red", "small", 0.5, 0.75, "solid")))
    claim = Count(Description("circle", "red"), 2)
    assert judge(render(two, 32), [claim]) == [True]
    assert judge(render(three, 32), [claim]) == [False]


def test_only_color_pictures_are_read() -> None:
    with pytest.raises(ValueError, match=r"float64.*uint8.*\(H, W, 3\)"):
        detect(np.zeros((32, 32, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(32, 32\).*\(H, W, 3\)"):
        detect(np.zeros((32, 32), np.uint8))
