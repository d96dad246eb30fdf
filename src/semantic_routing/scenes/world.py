"""What a scene is made of: the names, the colors, and the two records `SceneObject` and `Scene`.

Places and lengths are fractions of the picture's side; x grows to the right and y downward.
"""

from dataclasses import dataclass

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 30),
    "orange": (255, 135, 0),
    "yellow": (250, 230, 20),
    "green": (15, 145, 45),
    "blue": (25, 65, 230),
    "purple": (125, 25, 160),
    "pink": (255, 105, 185),
    "brown": (115, 60, 15),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
"""Object colors as sRGB; any two, and any one and a background, lie at least 95 apart."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (140, 140, 145),
    "beige": (225, 205, 160),
    "sky": (115, 185, 240),
    "mint": (150, 225, 175),
    "lavender": (200, 170, 230),
    "slate": (70, 92, 112),
}
"""Background colors as sRGB; any two lie at least 75 apart."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")

RADII: dict[str, float] = {"small": 0.125, "large": 0.205}
"""Nominal radius of each size: 4 and 6.6 pixels in a picture of 32."""

GRID = 16
"""Centers lie on a grid of this many cells a side, where nothing else fixes them, so that a shape meets the pixels of a
small picture in few ways and a small model learns its edges early."""

PARTS = ("solid", "outlined", "striped")
"""How a shape is filled. Only large shapes are outlined or striped: at 32 pixels a small one has no room for a hole."""

HOST = "circle"
"""The one shape whose outline, when large, has room for any small object."""

REACH = 1.12
"""No shape extends farther than this many radii from its center."""

MAX_OBJECTS = 6

UNKNOWN = "unknown"
"""Shape, size and part of something seen by the detector that looks like nothing in this world."""


@dataclass(frozen=True)
class SceneObject:
    """One object; `x` and `y` are its center."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    part: str

    @property
    def radius(self) -> float:
        """Nominal radius."""
        return RADII[self.size]


@dataclass(frozen=True)
class Scene:
    """A picture's content: the background's name and the objects, in no particular order."""

    background: str
    objects: tuple[SceneObject, ...]
