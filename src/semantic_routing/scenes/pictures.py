"""Every picture that a caption can have, with its probability, where these are few enough to list."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from .grammar import LARGE_AT_MOST, Plan
from .held_out import NEVER_SHOWN, is_held_out_layout, shown
from .layout import _fits
from .world import BACKGROUNDS, COLORS, GRID, REACH, Scene, SceneObject


class Weighted(NamedTuple):
    """A scene and its probability."""

    scene: Scene
    probability: float


def all_pictures(plan: Plan, spacing: int = 4) -> list[Weighted]:
    """Every scene of the training stream that follows a plan without links, with its probability.

    `stream.lay_out` draws from the same distribution, but for the rare pictures that find room on finer lines only.

    Args:
        plan: shapes must be named; sizes, colors and the background may be open.
        spacing: centers lie on every so many lines of the world's grid of 16 a side.

    Raises:
        ValueError: the plan has links, an open shape or parts, or centers lie anywhere.
    """
    if plan.links or spacing < 1 or any(each.shape is None or each.part for each in plan.objects):
        raise ValueError(f"Only plans of named shapes, without links or parts and on a grid, have a list: {plan}.")
    backgrounds = [plan.background] if plan.background else list(BACKGROUNDS)
    found = [
        Weighted(scene, share * chance / len(backgrounds))
        for things, share in _completions(plan)
        for placed, chance in _placements(things, (), spacing)
        for scene in (Scene(background, placed) for background in backgrounds)
        if NEVER_SHOWN.isdisjoint(shown(scene)) and not is_held_out_layout(scene)
    ]
    total = sum(probability for _, probability in found)
    return [Weighted(scene, probability / total) for scene, probability in found]


def _completions(plan: Plan) -> Iterator[tuple[list[SceneObject], float]]:
    """The objects with every open color and size, as `grammar.complete` draws them."""
    open_colors = [[each.color] if each.color else list(COLORS) for each in plan.objects]
    named_large = sum(each.size == "large" for each in plan.objects)
    for colors in product(*open_colors):
        for sizes in product(*([each.size] if each.size else ["small", "large"] for each in plan.objects)):
            left, share = LARGE_AT_MOST.get(len(sizes), 0) - named_large, 1.0 / len(list(product(*open_colors)))
            for each, size in zip(plan.objects, sizes, strict=True):
                if each.size is None:
                    share *= 0.5 if left > 0 else float(size == "small")
                    left -= size == "large"
            if share:
                described = zip(plan.objects, colors, sizes, strict=True)
                yield (
                    [SceneObject(str(d.shape), color, str(size), 0.0, 0.0, "solid") for d, color, size in described],
                    share,
                )


def _placements(
    things: Sequence[SceneObject], placed: tuple[SceneObject, ...], spacing: int
) -> Iterator[tuple[tuple[SceneObject, ...], float]]:
    """The places of objects one after the other, as `layout.place` draws them until they fit."""
    if len(placed) == len(things):
        yield placed, 1.0
        return
    thing = things[len(placed)]
    reach = thing.radius * REACH
    lines = {line: _share_of_line(line, reach, spacing) for line in (n / GRID for n in range(0, GRID + 1, spacing))}
    places = {(x, y): lines[x] * lines[y] for x, y in product(lines, repeat=2) if _fits(x, y, reach, placed, None)}
    total = sum(places.values())
    for (x, y), share in places.items():
        if share:
            for rest, chance in _placements(things, (*placed, replace(thing, x=x, y=y)), spacing):
                yield rest, chance * share / total


def _share_of_line(line: float, reach: float, spacing: int) -> float:
    """The part of [reach, 1 − reach] that is rounded to this line of the grid."""
    half = spacing / GRID / 2
    return max(0.0, min(line + half, 1 - reach) - max(line - half, reach))
