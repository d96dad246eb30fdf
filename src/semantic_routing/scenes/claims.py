"""Statements about a scene that are true or false, and their form as plain dictionaries."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from operator import attrgetter

from ..io.files import JsonObject
from .geometry import DIRECTIONS, RELATIONS, related
from .world import BACKGROUNDS, COLORS, PARTS, RADII, SHAPES, UNKNOWN, Scene, SceneObject

IN_ORDER = 0.04
"""Centers closer than this along an axis have no order there."""

VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": tuple(RADII),
    "part": PARTS,
}
"""The attributes of an object and their values."""


def _require(value: str, wanted: tuple[str, ...], name: str) -> None:
    if value not in wanted:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(wanted)}.")


@dataclass(frozen=True)
class Description:
    """A description of objects; what is None is left open, so `Description()` is any object at all."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        for name, wanted in VALUES.items():
            value = getattr(self, name)
            if value is not None:
                _require(value, wanted, name)

    def matches(self, thing: SceneObject) -> bool:
        """Whether `thing` fits. An object of unknown shape still has its color, so it can be a red object."""
        return all(getattr(self, name) in (None, getattr(thing, name)) for name in VALUES)

    def among(self, scene: Scene) -> list[SceneObject]:
        """The objects of `scene` that fit."""
        return [thing for thing in scene.objects if self.matches(thing)]

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.part, self.color, self.shape or "object") if word)


@dataclass(frozen=True)
class Claim(ABC):
    """A statement that holds in a scene or does not."""

    @abstractmethod
    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of `scene`."""

    def to_dict(self) -> JsonObject:
        """The claim as strings, numbers and dictionaries, with its class under "claim"."""
        return {"claim": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class Count(Claim):
    """Exactly `number` objects fit `description`; 0 says that there are none."""

    description: Description
    number: int

    def holds(self, scene: Scene) -> bool:
        """Whether the number is exact."""
        return len(self.description.among(scene)) == self.number

    def __str__(self) -> str:
        return f"{self.number} × {self.description}"


@dataclass(frozen=True)
class Background(Claim):
    """The background has this name."""

    name: str

    def __post_init__(self) -> None:
        _require(self.name, tuple(BACKGROUNDS), "background")

    def holds(self, scene: Scene) -> bool:
        """Whether the name is the background's."""
        return scene.background == self.name

    def __str__(self) -> str:
        return f"{self.name} background"


@dataclass(frozen=True)
class Related(Claim):
    """Some object that fits `subject` is `relation` of another that fits `anchor`."""

    relation: str
    subject: Description
    anchor: Description

    def __post_init__(self) -> None:
        _require(self.relation, RELATIONS, "relation")

    def holds(self, scene: Scene) -> bool:
        """Whether one pair of different objects is so related."""
        pairs = ((a, b) for a in self.subject.among(scene) for b in self.anchor.among(scene) if a is not b)
        return any(UNKNOWN not in (a.shape, b.shape) and related(self.relation, a, b) for a, b in pairs)

    def __str__(self) -> str:
        return f"{self.subject} {self.relation} {self.anchor}"


@dataclass(frozen=True)
class Compare(Claim):
    """More objects fit `first` than `second`, or equally many do; at least one fits each."""

    first: Description
    order: str
    second: Description

    def __post_init__(self) -> None:
        _require(self.order, ("more", "equal"), "order")

    def holds(self, scene: Scene) -> bool:
        """Whether the two numbers are so ordered and neither is zero."""
        first, second = len(self.first.among(scene)), len(self.second.among(scene))
        return min(first, second) > 0 and (first > second if self.order == "more" else first == second)

    def __str__(self) -> str:
        sign = ">" if self.order == "more" else "="
        return f"number of {self.first} {sign} number of {self.second}"


@dataclass(frozen=True)
class Every(Claim):
    """Every object that fits `description` fits `quality` too, and there is at least one.

    An object whose shape is not recognized is an exception."""

    description: Description
    quality: Description

    def holds(self, scene: Scene) -> bool:
        """Whether none is an exception."""
        things = self.description.among(scene)
        return bool(things) and all(thing.shape != UNKNOWN and self.quality.matches(thing) for thing in things)

    def __str__(self) -> str:
        return f"every {self.description} is a {self.quality}"


@dataclass(frozen=True)
class Ordinal(Claim):
    """The object number `number` (1 is the first), counted from `side`, fits `description`.

    It holds only where the order is clear: `IN_ORDER` or more between each center and the next.
    """

    number: int
    side: str
    description: Description

    def __post_init__(self) -> None:
        _require(self.side, DIRECTIONS, "side")

    def holds(self, scene: Scene) -> bool:
        """Whether the object at that place of the order of all objects is recognized and fits."""
        along = attrgetter("x" if self.side in ("left", "right") else "y")
        in_order = sorted(scene.objects, key=along, reverse=self.side in ("right", "below"))
        clear = all(abs(along(a) - along(b)) > IN_ORDER for a, b in pairwise(in_order))
        if not clear or not 1 <= self.number <= len(in_order):
            return False
        found = in_order[self.number - 1]
        return found.shape != UNKNOWN and self.description.matches(found)

    def __str__(self) -> str:
        return f"number {self.number} from {self.side} is a {self.description}"


CLAIMS: dict[str, type[Claim]] = {cls.__name__: cls for cls in (Count, Background, Related, Compare, Every, Ordinal)}
"""Every sort of claim by its name."""


def claim_from_dict(record: JsonObject) -> Claim:
    """The claim that `Claim.to_dict` wrote."""
    values = dict(record)
    name = values.pop("claim", None)
    if name not in CLAIMS:
        raise ValueError(f"Claim is {name!r}, but must be one of {', '.join(CLAIMS)}.")
    cls = CLAIMS[name]
    wanted = {field.name for field in fields(cls)}
    if set(values) != wanted:
        raise ValueError(f"{name} has fields {sorted(values)}, but must have {sorted(wanted)}.")
    return cls(**{key: Description(**value) if isinstance(value, dict) else value for key, value in values.items()})
