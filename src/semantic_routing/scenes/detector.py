"""Reads a picture, also a blurred or noisy one, back into a scene.

Every pixel is explained as a mix of the background and one object color; connected pixels of one color are an object;
its shape, size and part are those of the drawn template that it agrees with best. What agrees with none is `UNKNOWN`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist

from .claims import Claim
from .geometry import FloatArray
from .render import MIN_SIZE, coverage
from .world import BACKGROUNDS, COLORS, PARTS, RADII, REACH, SHAPES, UNKNOWN, Scene, SceneObject

MAX_SIZE = 64
"""Larger pictures are reduced to this side first: it shows all that there is to see."""
MIN_INK = 0.4
"""A pixel belongs to an object from this share of the object's color on."""
MIN_AREA = 0.4
"""Spots with less ink than this share of the smallest shape's are noise."""
MIN_AGREEMENT = 0.85
"""An object whose best template agrees less than this is unknown; 1 is a perfect copy."""
MAX_RIVALRY = 0.65
"""So is one whose best template falls short of 1 by more than this share of what any other shape falls short by."""
SOFTNESS = 0.6 / 32
"""Blur (standard deviation, in picture sides) of the second, softer copy of each template."""
SCALES = (0.9, 1.0, 1.1)
"""Templates are drawn at these magnifications: a hand that draws a little too small or too large is still read."""
PHASES = 4
"""Templates are drawn at this many positions within a pixel along each axis."""

_COLOR_NAMES, _COLOR_VALUES = tuple(COLORS), np.array(list(COLORS.values()), np.float32)
_GROUND_NAMES, _GROUND_VALUES = tuple(BACKGROUNDS), np.array(list(BACKGROUNDS.values()), np.float32)
_PALETTE = np.concatenate([_GROUND_VALUES, _COLOR_VALUES])

Mask = NDArray[np.bool_]
EIGHT_NEIGHBORS = np.ones((3, 3), np.bool_)


@dataclass(frozen=True)
class Templates:
    """All shapes, sizes and parts as drawn in a picture of one size, each at all `SCALES`, crisp and soft.

    The ink's center of mass lies in the middle of the window.
    """

    names: list[tuple[str, str, str]]
    """(shape, size, part) of each template."""
    ink: FloatArray
    """(phase_y, phase_x, template, window, window), 0 to 1."""
    offset: FloatArray
    """(template, 2): center of mass minus center of the object along x and y, in pixels."""
    energy: FloatArray
    """(phase_y, phase_x, template): sum of the squared ink."""
    rival: Mask
    """(template, template): whether two templates are of different shapes."""
    smallest_area: float
    """Ink of the template with the least, in pixels."""


@lru_cache(maxsize=8)
def templates(size: int) -> Templates:
    """The templates for pictures of `size` pixels a side."""
    half = int(np.ceil((RADII["large"] * REACH * max(SCALES) + 3 * SOFTNESS) * size + 1.5))
    axis = (np.arange(2 * half + 1, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x, y, middle = axis[None, :], axis[:, None], float(axis[half])

    def draw(name: tuple[str, str, str], scale: float, shift_x: float, shift_y: float) -> FloatArray:
        shape, of_size, part = name
        center_x, center_y = (middle + shift_x / size) / scale, (middle + shift_y / size) / scale
        # Magnifying is drawing at a higher resolution: lengths and pixels scale alike.
        return coverage(SceneObject(shape, "", of_size, center_x, center_y, part), x / scale, y / scale, size * scale)

    names = [(shape, "small", "solid") for shape in SHAPES] + list(product(SHAPES, ("large",), PARTS))
    variants = list(product(names, SCALES))
    ink = np.empty((PHASES, PHASES, len(variants), len(axis), len(axis)), np.float32)
    offset = np.empty((len(variants), 2), np.float32)
    for index, (name, scale) in enumerate(variants):
        centered = draw(name, scale, 0.0, 0.0)
        offset[index] = [float((centered * (a - middle)).sum() / centered.sum()) * size for a in (x, y)]
        for row, column in product(range(PHASES), repeat=2):
            shift_x, shift_y = column / PHASES - offset[index, 0], row / PHASES - offset[index, 1]
            ink[row, column, index] = draw(name, scale, float(shift_x), float(shift_y))
    soft = ndimage.gaussian_filter(ink, SOFTNESS * size, axes=(-2, -1))
    ink = np.concatenate([ink, soft], axis=2)
    names = [name for name, _ in variants] * 2
    shapes = np.array([shape for shape, _, _ in names])
    return Templates(
        names=names,
        ink=ink,
        offset=np.tile(offset, (2, 1)),
        energy=(ink**2).sum((-1, -2)),
        rival=shapes[:, None] != shapes,
        smallest_area=float(ink.sum((-1, -2)).min()),
    )


def _as_square(image: NDArray[np.generic]) -> FloatArray:
    """The picture as floats (size, size, 3), 0 to 255, with a side that the templates serve."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Picture is {image.dtype} of shape {image.shape}, but must be uint8 of shape (H, W, 3).")
    size = min(MAX_SIZE, max(MIN_SIZE, *image.shape[:2]))
    if image.shape[:2] != (size, size):
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))
    return image.astype(np.float32)


def _background(picture: FloatArray) -> tuple[str, FloatArray]:
    """The background's name, and its color as it appears in this picture."""
    pixels = picture.reshape(-1, 3)
    nearest = cdist(pixels, _PALETTE).argmin(1)
    votes = np.bincount(nearest, minlength=len(_PALETTE))[: len(_GROUND_NAMES)]
    winner = int(votes.argmax())
    color = np.median(pixels[nearest == winner], axis=0) if votes[winner] else _GROUND_VALUES[winner]
    return _GROUND_NAMES[winner], color.astype(np.float32)


def _unmix(picture: FloatArray, ground: FloatArray) -> tuple[FloatArray, NDArray[np.intp]]:
    """How much of each color (colors, size, size) a pixel would hold, and which color explains it best.

    A pixel's neighbors are explained along with it, so that noise does not decide; what holds no ink has no say.
    """
    mixed, pure = picture - ground, _COLOR_VALUES - ground
    ink = np.clip(np.einsum("yxc,kc->kyx", mixed, pure) / (pure**2).sum(1)[:, None, None], 0, 1)
    unexplained = ((mixed - ink[..., None] * pure[:, None, None]) ** 2).sum(-1)
    return ink, ndimage.uniform_filter(unexplained, 3, axes=(-2, -1)).argmin(0)


def _components(labels: NDArray[np.intp]) -> list[Mask]:
    """Masks of the connected areas (8 neighbors) of equal label; label −1 is background."""
    masks: list[Mask] = []
    for label in np.unique(labels[labels >= 0]):
        numbered, count = ndimage.label(labels == label, EIGHT_NEIGHBORS)
        masks += [numbered == number for number in range(1, count + 1)]
    return masks


def _identify(ink: FloatArray, color: str) -> SceneObject:
    """The object whose ink (size, size) this is.

    Ink a and template b agree by a·b / (a·a + b·b − a·b), which is 1 for a = b.
    """
    size, known = len(ink), templates(len(ink))
    positions = np.arange(size, dtype=np.float32)
    x, y = (float((ink.sum(axis) * positions).sum() / ink.sum()) for axis in (0, 1))
    step_x, step_y = round(x * PHASES), round(y * PHASES)
    phase, width = (step_y % PHASES, step_x % PHASES), known.ink.shape[-1]
    left, top = step_x // PHASES, step_y // PHASES
    window = np.pad(ink, width // 2)[top : top + width, left : left + width]
    shared = known.ink[phase].reshape(-1, width**2) @ window.ravel()
    agreement = shared / (known.energy[phase] + (window**2).sum() - shared)
    best = int(agreement.argmax())
    rivalry = (1 - agreement[best]) / (1 - agreement[known.rival[best]].max())
    clear = agreement[best] > MIN_AGREEMENT and rivalry < MAX_RIVALRY
    shape, scale, part = known.names[best] if clear else (UNKNOWN,) * 3
    center_x, center_y = ((x, y) - known.offset[best] + 0.5) / size
    return SceneObject(shape, color, scale, float(center_x), float(center_y), part)


def detect(image: NDArray[np.generic]) -> Scene:
    """The scene that a picture, uint8 (H, W, 3), shows.

    An object that looks like none of this world has `UNKNOWN` as shape, size and part, and the nearest color.
    """
    picture = _as_square(image)
    background, ground = _background(picture)
    ink, color = _unmix(picture, ground)
    own_ink = np.take_along_axis(ink, color[None], 0)[0]
    masks = _components(np.where(own_ink > MIN_INK, color, -1))
    least = MIN_AREA * templates(len(picture)).smallest_area
    masks = [mask for mask in masks if own_ink[mask].sum() > least]
    taken = np.any(masks, axis=0) if masks else np.zeros_like(color, np.bool_)
    objects = []
    for mask in masks:
        index = int(color[mask][0])
        near = ndimage.binary_dilation(mask, EIGHT_NEIGHBORS)
        objects.append(_identify(np.where(mask | (near & ~taken), ink[index], 0), _COLOR_NAMES[index]))
    return Scene(background, tuple(objects))


def judge(image: NDArray[np.uint8], claims: Iterable[Claim]) -> list[bool]:
    """Whether each claim holds in a picture (H, W, 3)."""
    scene = detect(image)
    return [claim.holds(scene) for claim in claims]
