"""Draws a scene: every shape by its signed distance, anti-aliased, within its own window only."""

import numpy as np
from numpy.typing import NDArray

from .geometry import FloatArray, distance
from .world import BACKGROUNDS, COLORS, REACH, Scene, SceneObject

MIN_SIZE = 32


def coverage(thing: SceneObject, x: FloatArray, y: FloatArray, size: float) -> FloatArray:
    """How much of each pixel centered at (x, y) is inked, 0 to 1, in a picture of `size` pixels a side."""
    return np.clip(np.float32(0.5) - distance(thing, x, y) * np.float32(size), 0, 1)


def render(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The picture of `scene` as an array (size, size, 3). A later object is drawn over an earlier one."""
    if size < MIN_SIZE:
        raise ValueError(f"Picture size is {size}, but must be at least {MIN_SIZE}.")
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for thing in scene.objects:
        reach = thing.radius * REACH + 1 / size
        left, right = max(0, int((thing.x - reach) * size)), int((thing.x + reach) * size) + 1
        top, bottom = max(0, int((thing.y - reach) * size)), int((thing.y + reach) * size) + 1
        window = canvas[top:bottom, left:right]
        x = (np.arange(left, left + window.shape[1], dtype=np.float32) + np.float32(0.5)) / np.float32(size)
        y = (np.arange(top, top + window.shape[0], dtype=np.float32) + np.float32(0.5)) / np.float32(size)
        ink = coverage(thing, x[None, :], y[:, None], float(size))[..., None]
        window += ink * (np.array(COLORS[thing.color], np.float32) - window)
    return (canvas + np.float32(0.5)).astype(np.uint8)
