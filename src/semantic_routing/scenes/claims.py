"""Statements about a scene that are true or false, and their form as plain dictionaries."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any

from .geometry import RELATIONS, related
from .world import BACKGROUNDS, COLORS, PARTS, RADII, SHAPES, UNKNOWN, Scene, SceneObject

_VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": tuple(RADII),
    "part": PARTS,
}


def _require(value: str, wanted: tuple[str, ...], name: str) -> None:
    if value not in wanted:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(wanted)}.")


@dataclass(frozen=True)
class Kind:
    """A description of objects; what is None is left open, so `Kind()` is any object at all."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        for name, wanted in _VALUES.items():
            value = getattr(self, name)
            if value is not None:
                _require(value, wanted, name)

    def matches(self, thing: SceneObject) -> bool:
        """Whether `thing` fits. An unknown object fits no description, and counts only as an object."""
        if self == Kind():
            return True
        if thing.shape == UNKNOWN:
            return False
        return all(getattr(self, name) in (None, getattr(thing, name)) for name in _VALUES)

    def among(self, scene: Scene) -> list[SceneObject]:
        """The objects of `scene` that fit."""
        return [thing for thing in scene.objects if self.matches(thing)]

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.part, self.color, self.shape or "object") if word)


class Claim(ABC):
    """A statement that holds in a scene or does not."""

    @abstractmethod
    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of `scene`."""

    def to_dict(self) -> dict[str, Any]:
        """The claim as strings, numbers and dictionaries, with its class under "claim"."""
        return {"claim": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Count(Claim):
    """Exactly `number` objects are of `kind`; 0 says that there are none."""

    kind: Kind
    number: int

    def holds(self, scene: Scene) -> bool:
        """Whether the number is exact."""
        return len(self.kind.among(scene)) == self.number

    def __str__(self) -> str:
        return f"{self.number} × {self.kind}"


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
    """Some object of kind `subject` is `relation` of some object of kind `anchor`."""

    relation: str
    subject: Kind
    anchor: Kind

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
    """There are more objects of kind `first` than of kind `second`, or equally many; at least one of each."""

    first: Kind
    order: str
    second: Kind

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
    """Every object of `kind` is also of kind `quality`, and there is at least one."""

    kind: Kind
    quality: Kind

    def holds(self, scene: Scene) -> bool:
        """Whether none is an exception."""
        things = self.kind.among(scene)
        return bool(things) and all(self.quality.matches(thing) for thing in things)

    def __str__(self) -> str:
        return f"every {self.kind} is a {self.quality}"


_CLAIMS: dict[str, type[Claim]] = {cls.__name__: cls for cls in (Count, Background, Related, Compare, Every)}


def claim_from_dict(record: dict[str, Any]) -> Claim:
    """The claim that `Claim.to_dict` wrote."""
    values = dict(record)
    name = values.pop("claim", None)
    if name not in _CLAIMS:
        raise ValueError(f"Claim is {name!r}, but must be one of {', '.join(_CLAIMS)}.")
    cls = _CLAIMS[name]
    wanted = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if set(values) != wanted:
        raise ValueError(f"{name} has fields {sorted(values)}, but must have {sorted(wanted)}.")
    return cls(**{key: Kind(**value) if isinstance(value, dict) else value for key, value in values.items()})
