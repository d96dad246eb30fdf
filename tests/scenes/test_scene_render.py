from itertools import combinations, product

import numpy as np
import pytest

from semantic_routing.scenes import BACKGROUNDS, COLORS, SHAPES, Scene, SceneObject, render, sample_scene
from semantic_routing.scenes.world import PARTS, RADII, REACH


def alone(shape: str, size: str, part: str, x: float = 0.5, y: float = 0.5) -> Scene:
    return Scene("grey", (SceneObject(shape, "black", size, x, y, part),))


def ink(scene: Scene, side: int) -> np.ndarray:
    """Share of each pixel that is black on grey."""
    grey = np.array(BACKGROUNDS["grey"], np.float64)
    return 1 - (render(scene, side) / grey).mean(-1)


def test_colors_stay_apart() -> None:
    def distance(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        return float(np.linalg.norm(np.subtract(a, b)))

    assert len(COLORS) == 10
    assert min(distance(a, b) for a, b in combinations(COLORS.values(), 2)) > 95
    assert min(distance(a, b) for a, b in product(COLORS.values(), BACKGROUNDS.values())) > 95
    assert min(distance(a, b) for a, b in combinations(BACKGROUNDS.values(), 2)) > 75


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", PARTS)
def test_resolutions_agree(shape: str, part: str) -> None:
    """A small picture is the large one reduced, so that anti-aliasing is right and nothing is drawn elsewhere."""
    scene = alone(shape, "large", part, 0.47, 0.44)
    fine = ink(scene, 512).reshape(32, 16, 32, 16).mean((1, 3))
    coarse = ink(scene, 32)
    assert coarse.sum() == pytest.approx(fine.sum(), rel=0.03)
    assert np.abs(coarse - fine).max() < 0.35
    assert np.abs(coarse - fine).mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_moved_object_keeps_its_look(shape: str) -> None:
    first, second = ink(alone(shape, "small", "solid", 0.3, 0.4), 64), ink(alone(shape, "small", "solid"), 64)
    moved = ink(alone(shape, "small", "solid", 0.3 + 5 / 64, 0.4 + 3 / 64), 64)
    assert np.abs(np.roll(first, (3, 5), (0, 1)) - moved).max() < 0.02
    assert first.sum() == pytest.approx(second.sum(), rel=0.02)


def test_kinds_look_different() -> None:
    kinds = [(shape, "small", "solid") for shape in SHAPES] + list(product(SHAPES, ["large"], PARTS))
    drawn = {kind: ink(alone(*kind), 32) for kind in kinds}
    for a, b in combinations(kinds, 2):
        overlap = np.minimum(drawn[a], drawn[b]).sum() / np.maximum(drawn[a], drawn[b]).sum()
        assert overlap < 0.87, (a, b, overlap)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_exceeds_its_reach(shape: str) -> None:
    y, x = (np.mgrid[:256, :256] + 0.5) / 256 - 0.5
    inked = ink(alone(shape, "large", "solid"), 256) > 0.5
    assert 0.95 < np.hypot(x, y)[inked].max() / RADII["large"] < REACH


def test_sizes_have_their_radius() -> None:
    for size, radius in RADII.items():
        assert ink(alone("circle", size, "solid"), 128).sum() == pytest.approx(np.pi * (radius * 128) ** 2, rel=0.02)


@pytest.mark.parametrize("side", [32, 33, 48, 64, 200])
def test_any_size_has_background_and_pure_colors(side: int) -> None:
    sample = sample_scene(0, 1, skills=["color_attr"])
    picture = render(sample.scene, side)
    assert picture.shape == (side, side, 3)
    assert picture.dtype == np.uint8
    colors = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert BACKGROUNDS[sample.scene.background] in colors
    assert {COLORS[thing.color] for thing in sample.scene.objects} <= colors


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"16.*32"):
        render(Scene("grey", ()), 16)
