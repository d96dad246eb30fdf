"""Finds places for objects so that the relations between them hold, by drawing until they fit."""

from collections.abc import Sequence
from dataclasses import replace
from math import hypot
from random import Random

from .geometry import APART, DIRECTIONS, OPPOSITE, contact_distance, related
from .world import GRID, REACH, SceneObject

Link = tuple[str, int, int]
"""(relation, subject, anchor): the object with index `subject` is `relation` of the one with index `anchor`."""

_STEPS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
_TRIES_PER_OBJECT = 40


def _beside(rng: Random, relation: str, anchor: SceneObject, thing: SceneObject) -> tuple[float, float]:
    """A center for `thing` so that it is clearly `relation` of `anchor`."""
    if relation == "inside":
        return anchor.x, anchor.y
    if relation == "touching":
        step = rng.choice(tuple(_STEPS.values()))
        along = contact_distance(anchor.shape, anchor.size, thing.shape, thing.size, step)
        return anchor.x + step[0] * along, anchor.y + step[1] * along
    step = _STEPS[relation]
    along = rng.uniform(0.3, 0.6)
    across = along * rng.uniform(-0.5, 0.5)
    return anchor.x + step[0] * along + step[1] * across, anchor.y + step[1] * along + step[0] * across


def _on_grid(x: float, spacing: int) -> float:
    if not spacing:
        return x
    return round(x * GRID / spacing) * spacing / GRID


def _fits(x: float, y: float, reach: float, placed: Sequence[SceneObject], exempt: int | None) -> bool:
    """Whether a disc lies in the picture and apart from all `placed`, but for the one with index `exempt`."""
    if not (reach < x < 1 - reach and reach < y < 1 - reach):
        return False
    for index, other in enumerate(placed):
        if index != exempt and hypot(x - other.x, y - other.y) < reach + other.radius * REACH + APART:
            return False
    return True


def _link_of(index: int, links: Sequence[Link]) -> tuple[str, int] | None:
    """The relation of object `index` to an earlier object, seen from the former."""
    for relation, subject, anchor in links:
        if subject == index and anchor < index:
            return relation, anchor
        if anchor == index and subject < index:
            return OPPOSITE.get(relation, relation), subject
    return None


def place(
    rng: Random, things: Sequence[SceneObject], links: Sequence[Link], spacing: int = 1
) -> tuple[SceneObject, ...] | None:
    """`things` with their centers set, or None where this attempt found no room.

    Each object is linked to at most one earlier object; a host of an object inside it comes before that object.
    Centers lie on every `spacing`-th line of the grid, but for those of touching objects; 0 is no grid.
    """
    placed: list[SceneObject] = []
    for index, thing in enumerate(things):
        link = _link_of(index, links)
        exempt = link[1] if link and link[0] in ("touching", "inside") else None
        reach = thing.radius * REACH
        for _ in range(_TRIES_PER_OBJECT):
            if link:
                x, y = _beside(rng, link[0], placed[link[1]], thing)
            else:
                x, y = rng.uniform(reach, 1 - reach), rng.uniform(reach, 1 - reach)
            if not (link and link[0] == "touching"):
                x, y = _on_grid(x, spacing), _on_grid(y, spacing)
            if not _fits(x, y, reach, placed, exempt):
                continue
            found = replace(thing, x=x, y=y)
            # A coarse grid can move an object out of its relation.
            if not link or link[0] not in DIRECTIONS or related(link[0], found, placed[link[1]]):
                placed.append(found)
                break
        else:
            return None
    return tuple(placed)
