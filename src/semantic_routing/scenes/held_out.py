"""Combinations that no caption of training speaks of and, backgrounds aside, none of its pictures shows.

They are kept for evaluation. Every color, shape, part, background, number and relation on its own is plentiful.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import combinations as pairs_of
from itertools import product

from .claims import Background, Claim, Compare, Count, Every, Kind, Related
from .geometry import is_inside, is_touching, relation_between
from .world import UNKNOWN, Scene, SceneObject

Combination = tuple[str, ...]

HELD_OUT: frozenset[Combination] = frozenset(
    {
        ("color", "green", "circle"),
        ("color", "purple", "square"),
        ("color", "blue", "triangle"),
        ("color", "orange", "star"),
        ("color", "yellow", "cross"),
        ("color", "pink", "heart"),
        ("number", "2", "cross"),
        ("number", "3", "triangle"),
        ("number", "4", "circle"),
        ("number", "5", "heart"),
        ("part", "striped", "triangle"),
        ("part", "outlined", "star"),
        ("background", "beige", "square"),
        ("background", "mint", "star"),
        ("background", "lavender", "circle"),
        ("background", "slate", "heart"),
        ("left", "circle", "star"),
        ("left", "triangle", "heart"),
        ("left", "cross", "square"),
        ("above", "square", "circle"),
        ("above", "star", "cross"),
        ("above", "heart", "triangle"),
        ("touching", "circle", "triangle"),
        ("touching", "heart", "square"),
        ("inside", "heart", "circle"),
    }
)
"""About a tenth of each kind of combination, and one of the five of "inside".

A relation reads (relation, subject, anchor).
"""

NEVER_SHOWN = frozenset(combination for combination in HELD_OUT if combination[0] != "background")
"""What training's pictures leave out as well.

Backgrounds are only never spoken of together with the shape: most captions leave them open, and a model that never
saw a square on beige has learned that squares do not lie there.
"""


def relation_combination(relation: str, subject: str, anchor: str) -> Combination:
    """The one spelling of what "a left of b" and "b right of a", or "a touching b" and "b touching a", both say."""
    if relation == "right":
        return "left", anchor, subject
    if relation == "below":
        return "above", anchor, subject
    if relation == "touching":
        return (relation, *sorted((subject, anchor)))
    return relation, subject, anchor


def _of_kind(kind: Kind | SceneObject) -> set[Combination]:
    attributes = {("color", kind.color, kind.shape), ("part", kind.part, kind.shape)}
    return {(name, value, shape) for name, value, shape in attributes if value and shape}


def _of_pair(a: SceneObject, b: SceneObject) -> set[Combination]:
    found = {relation for relation in (relation_between(a, b),) if relation}
    if is_touching(a, b):
        found.add("touching")
    combined = {relation_combination(relation, a.shape, b.shape) for relation in found}
    if is_inside(a, b):
        combined.add(relation_combination("inside", a.shape, b.shape))
    if is_inside(b, a):
        combined.add(relation_combination("inside", b.shape, a.shape))
    return combined


def shown(scene: Scene) -> set[Combination]:
    """All combinations that are to be seen in `scene`."""
    things = [thing for thing in scene.objects if thing.shape != UNKNOWN]
    found: set[Combination] = {("background", scene.background, thing.shape) for thing in things}
    for thing in things:
        found |= _of_kind(thing)
    of_shape = Counter(thing.shape for thing in things)
    of_color_and_shape = Counter((thing.color, thing.shape) for thing in things)
    found |= {("number", str(number), shape) for shape, number in of_shape.items()}
    found |= {("number", str(number), shape) for (_, shape), number in of_color_and_shape.items()}
    for a, b in pairs_of(things, 2):
        found |= _of_pair(a, b)
    return found


def _merged(kind: Kind, quality: Kind) -> Kind:
    return Kind(*(getattr(quality, name) or getattr(kind, name) for name in ("shape", "color", "size", "part")))


def stated(claims: Iterable[Claim]) -> set[Combination]:
    """All combinations that a caption with these `claims` speaks of, those that it denies included."""
    found: set[Combination] = set()
    kinds: list[Kind] = []
    backgrounds: list[str] = []
    for claim in claims:
        match claim:
            case Count(kind, number):
                kinds.append(kind)
                if kind.shape:
                    found.add(("number", str(number), kind.shape))
            case Background(name):
                backgrounds.append(name)
            case Related(relation, subject, anchor):
                kinds += [subject, anchor]
                if subject.shape and anchor.shape:
                    found.add(relation_combination(relation, subject.shape, anchor.shape))
            case Compare(first, _, second):
                kinds += [first, second]
            case Every(kind, quality):
                kinds += [kind, _merged(kind, quality)]
    found |= {("background", name, kind.shape) for name, kind in product(backgrounds, kinds) if kind.shape}
    return found.union(*map(_of_kind, kinds))
