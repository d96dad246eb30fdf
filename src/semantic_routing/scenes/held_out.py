"""What training leaves out, so that it can be asked for in evaluation. Each is a rule, and training obeys all three.

Combinations: no caption of training speaks of them and, backgrounds aside, no picture shows them. Every color, shape,
part, background, number and relation on its own is plentiful. Captions: about one in sixteen, by its checksum. Layouts
of three objects or more: about one in ten, by the checksum of the cells that the objects lie in.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations as pairs_of
from itertools import product
from zlib import crc32

from .claims import Background, Claim, Compare, Count, Description, Every, Ordinal, Related
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
"""About a tenth of each sort of combination, and one of the five of "inside".

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


def _of_one(described: Description | SceneObject) -> set[Combination]:
    attributes = {("color", described.color, described.shape), ("part", described.part, described.shape)}
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


def shown_apart(things: Iterable[SceneObject]) -> set[Combination]:
    """The combinations that `things` show wherever they lie and whatever is behind them."""
    things = [thing for thing in things if thing.shape != UNKNOWN]
    of_shape = Counter(thing.shape for thing in things)
    of_color_and_shape = Counter((thing.color, thing.shape) for thing in things)
    found = {("number", str(number), shape) for shape, number in of_shape.items()}
    found |= {("number", str(number), shape) for (_, shape), number in of_color_and_shape.items()}
    return found.union(*map(_of_one, things))


def shown(scene: Scene) -> set[Combination]:
    """All combinations that are to be seen in `scene`."""
    things = [thing for thing in scene.objects if thing.shape != UNKNOWN]
    found = shown_apart(things) | {("background", scene.background, thing.shape) for thing in things}
    return found.union(*(_of_pair(a, b) for a, b in pairs_of(things, 2)))


def _merged(described: Description, quality: Description) -> Description:
    """What fits both."""
    return replace(described, **{name: value for name, value in vars(quality).items() if value})


def stated(claims: Iterable[Claim]) -> set[Combination]:
    """All combinations that a caption with these `claims` speaks of, those that it denies included."""
    found: set[Combination] = set()
    descriptions: list[Description] = []
    backgrounds: list[str] = []
    for claim in claims:
        match claim:
            case Count(described, number):
                descriptions.append(described)
                if described.shape:
                    found.add(("number", str(number), described.shape))
            case Background(name):
                backgrounds.append(name)
            case Related(relation, subject, anchor):
                descriptions += [subject, anchor]
                if subject.shape and anchor.shape:
                    found.add(relation_combination(relation, subject.shape, anchor.shape))
            case Compare(first, _, second):
                descriptions += [first, second]
            case Ordinal(_, _, described):
                descriptions.append(described)
            case Every(described, quality):
                descriptions += [described, _merged(described, quality)]
    shapes = [described.shape for described in descriptions if described.shape]
    found |= {("background", name, shape) for name, shape in product(backgrounds, shapes)}
    return found.union(*map(_of_one, descriptions))


def is_reserved_caption(caption: str) -> bool:
    """Whether training never has this caption word for word, whatever it speaks of."""
    return crc32(caption.encode()) % 16 == 0


def layout_of(scene: Scene) -> tuple[tuple[int, int], ...]:
    """The cell (column, row) of each object's center, in a grid of 4 × 4 cells, in order."""
    return tuple(sorted((int(thing.x * 4), int(thing.y * 4)) for thing in scene.objects))


def is_held_out_layout(scene: Scene) -> bool:
    """Whether no picture of training has three or more objects in just these cells."""
    return len(scene.objects) >= 3 and crc32(repr(layout_of(scene)).encode()) % 10 == 0
