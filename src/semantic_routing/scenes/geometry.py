"""Signed distances of the shapes, and the four directions, touching and inside that follow from them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from .world import HOST, REACH, SceneObject

FloatArray = NDArray[np.float32]

STROKE = 0.042
"""Width of an outline."""
STRIPE_PERIOD = 0.1
STRIPE_WIDTH = 0.05

APART = 0.045
"""Least gap between objects that do not touch: more than one pixel in a picture of 32."""
TOUCH_TOLERANCE = 0.025
"""Objects closer than this count as touching."""
CLEAR_OFFSET = 0.1
"""Centers closer than this along an axis are not left/right or above/below of each other."""

DIRECTIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
RELATIONS = (*DIRECTIONS, "touching", "inside")


def _circle(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.hypot(x, y) - np.float32(1.0)


def _square(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.79)


def _triangle(x: FloatArray, y: FloatArray) -> FloatArray:
    apex, base, half = -1.1, 0.6, 0.94
    height = base - apex
    slanted = (np.abs(x) * np.float32(height) - (y - np.float32(apex)) * np.float32(half)) / np.float32(
        np.hypot(height, half)
    )
    return np.maximum(slanted, y - np.float32(base))


def _star(x: FloatArray, y: FloatArray) -> FloatArray:
    # All ten half-edges fold onto one, from the tip at radius 1.12 to the notch at radius 0.5.
    tip, notch, sector = 1.12, 0.5, np.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs(np.mod(angle + sector, 2 * sector) - sector).astype(np.float32)
    radius = np.hypot(x, y)
    edge_x, edge_y = notch * np.cos(sector) - tip, notch * np.sin(sector)
    length = np.hypot(edge_x, edge_y)
    normal_x, normal_y = np.float32(edge_y / length), np.float32(-edge_x / length)
    along = (radius * np.cos(folded) - np.float32(tip)) * normal_x + radius * np.sin(folded) * normal_y
    return along.astype(np.float32)


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(1.04), np.minimum(x, y) - np.float32(0.36))


def _heart(x: FloatArray, y: FloatArray) -> FloatArray:
    # A square standing on its corner, and a disc on each of its upper edges.
    half = 0.82
    x, y = np.abs(x), y - np.float32(0.07)
    square = (x + np.abs(y) - np.float32(half)) * np.float32(0.5**0.5)
    disc = np.hypot(x - np.float32(half / 2), y + np.float32(half / 2)) - np.float32(half * 0.5**0.5)
    return np.minimum(square, disc)


SIGNED_DISTANCE: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}
"""Distance to the outline of each shape of radius 1, negative inside."""


def distance(thing: SceneObject, x: FloatArray, y: FloatArray) -> FloatArray:
    """Signed distance from points (x, y) to the inked area of `thing`, in picture sides.

    `x` and `y` broadcast against each other; the result has their common shape.
    """
    radius = np.float32(thing.radius)
    x, y = x - np.float32(thing.x), y - np.float32(thing.y)
    solid = SIGNED_DISTANCE[thing.shape](x / radius, y / radius) * radius
    if thing.part == "solid":
        return solid
    hole = -(solid + np.float32(STROKE))
    if thing.part == "striped":
        phase = np.mod(y / np.float32(STRIPE_PERIOD) + np.float32(0.5), np.float32(1.0)) - np.float32(0.5)
        hole = np.minimum(hole, np.abs(phase) * np.float32(STRIPE_PERIOD) - np.float32(STRIPE_WIDTH / 2))
    return np.maximum(solid, hole)


@lru_cache
def _rim(shape: str) -> tuple[FloatArray, FloatArray]:
    """Points on the outline of a shape of radius 1."""
    axis = np.linspace(-REACH, REACH, 121, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    on_rim = np.abs(SIGNED_DISTANCE[shape](x, y)) < 0.02
    return x[on_rim], y[on_rim]


def _gap_from(a: SceneObject, b: SceneObject) -> float:
    x, y = _rim(b.shape)
    x, y = (x * b.radius + (b.x - a.x)) / a.radius, (y * b.radius + (b.y - a.y)) / a.radius
    return float(SIGNED_DISTANCE[a.shape](x, y).min()) * a.radius


def gap(a: SceneObject, b: SceneObject) -> float:
    """Distance between the filled areas of two objects; negative where they overlap."""
    # Off a corner a signed distance here may fall short of the true one, never exceed it: the greater is the better.
    return max(_gap_from(a, b), _gap_from(b, a))


@cache
def contact_distance(shape_a: str, size_a: str, shape_b: str, size_b: str, direction: tuple[int, int]) -> float:
    """How far along `direction`, a unit step along an axis, b's center lies from a's when they just touch."""
    a, b = SceneObject(shape_a, "", size_a, 0.0, 0.0, "solid"), SceneObject(shape_b, "", size_b, 0.0, 0.0, "solid")

    def gap_at(distance: float) -> float:
        return gap(a, replace(b, x=direction[0] * distance, y=direction[1] * distance))

    # At half the radii's sum any two shapes overlap; nearer still, one may hold the other whole, which is a gap again.
    radii = a.radius + b.radius
    return float(brentq(gap_at, radii / 2, 2 * REACH * radii, xtol=1e-5))


def relation_between(a: SceneObject, b: SceneObject) -> str | None:
    """Which way `a` lies from `b`: the axis along which their centers are farther apart decides."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy) and abs(dx) > CLEAR_OFFSET:
        return "right" if dx > 0 else "left"
    if abs(dy) > abs(dx) and abs(dy) > CLEAR_OFFSET:
        return "below" if dy > 0 else "above"
    return None


def is_inside(a: SceneObject, b: SceneObject) -> bool:
    """Whether the small `a` lies within the large outlined circle `b`."""
    if not (a.size == "small" and b.size == "large" and b.part == "outlined" and b.shape == HOST):
        return False
    return float(np.hypot(a.x - b.x, a.y - b.y)) < b.radius - a.radius


def is_touching(a: SceneObject, b: SceneObject) -> bool:
    """Whether the outlines meet from outside."""
    between = float(np.hypot(a.x - b.x, a.y - b.y))
    if between > REACH * (a.radius + b.radius) + TOUCH_TOLERANCE or is_inside(a, b) or is_inside(b, a):
        return False
    return gap(a, b) < TOUCH_TOLERANCE


def related(relation: str, a: SceneObject, b: SceneObject) -> bool:
    """Whether `a` is `relation` (one of `RELATIONS`) of `b`."""
    if relation == "touching":
        return is_touching(a, b)
    if relation == "inside":
        return is_inside(a, b)
    return relation_between(a, b) == relation
