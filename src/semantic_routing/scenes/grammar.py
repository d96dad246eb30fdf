"""The caption grammar: for each skill a function that plans a scene, words its caption and states its claims.

A plan lists the objects and how they are linked; their places are found afterwards (`layout.place`).
What a short caption leaves unsaid is free, but there is never an object that a caption does not cover.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

from .claims import Background, Claim, Compare, Count, Every, Kind, Related
from .geometry import DIRECTIONS
from .layout import Link
from .words import NUMBERS, RELATION_WORDS, listed, noun, on_background, opened, thing, things
from .world import BACKGROUNDS, COLORS, HOST, MAX_OBJECTS, PARTS, SHAPES, SceneObject

_BACKGROUNDS, _COLORS = tuple(BACKGROUNDS), tuple(COLORS)
_UNPLACED = 0.5

LARGE_AT_MOST = {1: 1, 2: 2, 3: 1, 4: 1}
"""How many of that many objects may be large so that all find room; none of more."""


@dataclass(frozen=True)
class Plan:
    """A scene without places: the objects (shape and whatever else is settled), their links, and what is said."""

    kinds: tuple[Kind, ...]
    caption: str
    claims: tuple[Claim, ...]
    background: str
    links: tuple[Link, ...] = ()


def complete(rng: Random, plan: Plan) -> list[SceneObject]:
    """The planned objects with every open attribute drawn: few large ones, solid unless planned otherwise."""
    large_left = LARGE_AT_MOST.get(len(plan.kinds), 0)
    large_left -= sum(kind.size == "large" or kind.part in ("outlined", "striped") for kind in plan.kinds)
    objects = []
    for kind in plan.kinds:
        size = kind.size or ("large" if kind.part in ("outlined", "striped") else None)
        if size is None:
            size = "large" if large_left > 0 and rng.random() < 0.5 else "small"
            large_left -= size == "large"
        color = kind.color or rng.choice(_COLORS)
        objects.append(SceneObject(kind.shape or "", color, size, _UNPLACED, _UNPLACED, kind.part or "solid"))
    return objects


def _plan(
    rng: Random,
    kinds: Sequence[Kind],
    phrase: str,
    claims: Sequence[Claim],
    links: Sequence[Link] = (),
    naming: float = 0.15,
    opening: int = 1,
) -> Plan:
    """A plan on some background, which the caption names with probability `naming`.

    The caption may get an opener that agrees with `opening` things; 0 takes it as it is, neither opened nor extended.
    """
    background = rng.choice(_BACKGROUNDS)
    if opening and rng.random() < naming:
        phrase, claims = on_background(rng, phrase, background), (*claims, Background(background))
    if opening:
        phrase = opened(rng, phrase, opening)
    return Plan(tuple(kinds), phrase, tuple(claims), background, tuple(links))


def _two_shapes(rng: Random) -> tuple[str, str]:
    first, second = rng.sample(SHAPES, 2)
    return first, second


def _two_colors(rng: Random) -> tuple[str, str]:
    first, second = rng.sample(_COLORS, 2)
    return first, second


def _pick(stratum: float, options: Sequence[str]) -> str:
    return options[int(stratum * len(options))]


def _one_each(kinds: Sequence[Kind]) -> list[Claim]:
    return [Count(kind, 1) for kind in kinds]


# The skills. Each takes the generator and a stratum in [0, 1), which decides what must stay evenly drawn when a plan
# is drawn anew because it meets a held-out combination, or none.


def single_object(rng: Random, stratum: float) -> Plan:
    """A circle."""
    kind = Kind(rng.choice(SHAPES))
    return _plan(rng, [kind], things(rng, kind, 1), _one_each([kind]), naming=0.5)


def two_object(rng: Random, stratum: float) -> Plan:
    """A circle and a square."""
    kinds = [Kind(shape) for shape in _two_shapes(rng)]
    wording = rng.choice(("{} and {}", "{} and {}", "{} with {}", "{} next to {}", "both {} and {}"))
    phrase = wording.format(*(thing(rng, kind) for kind in kinds))
    return _plan(rng, kinds, phrase, _one_each(kinds), naming=0.4)


def counting(rng: Random, stratum: float) -> Plan:
    """Three red circles, and nothing else."""
    number = 1 + int(stratum * 5)
    shape, color = rng.choice(SHAPES), rng.choice(_COLORS)
    kind = Kind(shape, color if rng.random() < 0.7 else None)
    phrase = things(rng, kind, number)
    if rng.random() < 0.1:
        phrase = f"exactly {NUMBERS[number]} {noun(rng, kind, number)}"
    claims = [Count(kind, number), Count(Kind(), number)]
    return _plan(rng, [Kind(shape, color)] * number, phrase, claims, opening=number)


def colors(rng: Random, stratum: float) -> Plan:
    """A red circle."""
    kind = Kind(rng.choice(SHAPES), rng.choice(_COLORS))
    words = thing(rng, kind)
    if rng.random() < 0.2:
        words = f"{thing(rng, Kind(kind.shape))} that is {kind.color}"
    return _plan(rng, [kind], words, _one_each([kind]), naming=0.25)


def _relation_phrase(rng: Random, relation: str, subject: str, anchor: str) -> str:
    words = rng.choice(RELATION_WORDS[relation])
    return rng.choice((f"{subject} {words} {anchor}", f"{subject} {words} {anchor}", f"{subject} is {words} {anchor}"))


def position(rng: Random, stratum: float) -> Plan:
    """A circle to the left of a square."""
    relation = _pick(stratum, DIRECTIONS)
    a, b = (Kind(shape) for shape in _two_shapes(rng))
    phrase = f"{thing(rng, a)} {rng.choice(RELATION_WORDS[relation])} {thing(rng, b)}"
    return _plan(rng, [a, b], phrase, [*_one_each([a, b]), Related(relation, a, b)], [(relation, 0, 1)], naming=0.1)


def color_attr(rng: Random, stratum: float) -> Plan:
    """A red circle and a blue square."""
    kinds = [Kind(shape, color) for shape, color in zip(_two_shapes(rng), _two_colors(rng), strict=True)]
    wording = rng.choice(("{} and {}", "{} and {}", "{} and {}", "{} with {}", "{} next to {}"))
    phrase = wording.format(*(thing(rng, kind) for kind in kinds))
    return _plan(rng, kinds, phrase, _one_each(kinds), naming=0.1)


def attribute(rng: Random, stratum: float) -> Plan:
    """A large striped red circle, alone or with another object."""
    shapes, colors = _two_shapes(rng), _two_colors(rng)
    kinds = []
    for shape, color in list(zip(shapes, colors, strict=True))[: 1 + (rng.random() < 0.5)]:
        part = rng.choice((None, *PARTS))
        size = "large" if part in ("outlined", "striped") else rng.choice(("small", "large"))
        kinds.append(Kind(shape, color, size, part))
    phrase = listed([thing(rng, kind) for kind in kinds])
    return _plan(rng, kinds, phrase, _one_each(kinds))


def scene(rng: Random, stratum: float) -> Plan:
    """A red circle and two blue stars on a beige background; half of the captions are dense."""
    if stratum < 0.5:
        return _dense(rng, 1 + int(stratum * 2 * MAX_OBJECTS))
    groups = list(zip(_two_shapes(rng), _two_colors(rng), strict=True))[: 1 + (rng.random() < 0.5)]
    kinds = [Kind(shape, color if rng.random() < 0.8 else None) for shape, color in groups]
    numbers = [rng.choice((1, 1, 2)) for _ in kinds]
    phrase = listed([things(rng, *group) for group in zip(kinds, numbers, strict=True)])
    claims = [Count(kind, number) for kind, number in zip(kinds, numbers, strict=True)]
    drawn = [Kind(*group) for group, number in zip(groups, numbers, strict=True) for _ in range(number)]
    return _plan(rng, drawn, phrase, claims, naming=1.0, opening=numbers[0])


def spatial_relation(rng: Random, stratum: float) -> Plan:
    """A red circle left of a blue square, and perhaps a third object by one of the two."""
    relation = _pick(stratum, DIRECTIONS)
    number = rng.choice((2, 2, 3))
    shapes, colors = rng.sample(SHAPES, number), rng.sample(_COLORS, number)
    sized = rng.random() < 0.3 and number == 2
    kinds = [
        Kind(shape, color, rng.choice(("small", "large")) if sized else None)
        for shape, color in zip(shapes, colors, strict=True)
    ]
    claims = [*_one_each(kinds), Related(relation, kinds[0], kinds[1])]
    links: list[Link] = [(relation, 0, 1)]
    phrase = _relation_phrase(rng, relation, thing(rng, kinds[0]), thing(rng, kinds[1]))
    if number == 3:
        anchor, second = rng.randrange(2), rng.choice(DIRECTIONS)
        claims.append(Related(second, kinds[2], kinds[anchor]))
        links.append((second, 2, anchor))
        known = f"the {noun(rng, kinds[anchor])}"
        phrase += ", and " + _relation_phrase(rng, second, thing(rng, kinds[2]), known)
    return _plan(rng, kinds, phrase, claims, links, opening=0)


def action_relation(rng: Random, stratum: float) -> Plan:
    """A red circle touching a blue square, or a small red star inside a large blue circle."""
    relation = _pick(stratum, ("touching", "inside"))
    a, b = (Kind(shape, color) for shape, color in zip(_two_shapes(rng), _two_colors(rng), strict=True))
    said_a, said_b, kinds = a, b, [a, b]
    if relation == "inside":
        a = replace(a, shape=rng.choice([shape for shape in SHAPES if shape != HOST]))
        b = replace(b, shape=HOST)
        kinds = [replace(b, size="large", part="outlined"), replace(a, size="small", part="solid")]
        said_a = rng.choice((a, replace(a, size="small")))
        said_b = rng.choice((b, replace(b, part="outlined"), replace(b, size="large", part="outlined")))
    phrase = f"{thing(rng, said_a)} {rng.choice(RELATION_WORDS[relation])} {thing(rng, said_b)}"
    claims = [*_one_each([said_a, said_b]), Related(relation, said_a, said_b)]
    link = ("inside", 1, 0) if relation == "inside" else ("touching", 0, 1)
    return _plan(rng, kinds, phrase, claims, [link])


def part(rng: Random, stratum: float) -> Plan:
    """A red circle with stripes, alone or beside a solid object."""
    how = _pick(stratum, ("outlined", "striped", "solid"))
    shapes, colors = _two_shapes(rng), _two_colors(rng)
    kind = Kind(shapes[0], colors[0] if rng.random() < 0.7 else None, None, how)
    words = thing(rng, kind)
    if rng.random() < 0.4:
        plain = thing(rng, replace(kind, part=None))
        endings = {"outlined": "drawn as an outline", "striped": "with stripes", "solid": "that is filled"}
        words = f"{plain} {endings[how]}"
    kinds = [kind]
    if rng.random() < 0.4:
        kinds.append(Kind(shapes[1], colors[1] if kind.color else None))
        words = f"{words} and {thing(rng, kinds[1])}"
    return _plan(rng, kinds, words, _one_each(kinds))


def comparison(rng: Random, stratum: float) -> Plan:
    """More red circles than blue squares, or as many."""
    shapes, colors = _two_shapes(rng), _two_colors(rng)
    colored = rng.random() < 0.6
    a, b = (Kind(s, c if colored else None) for s, c in zip(shapes, colors, strict=True))
    more, fewer = rng.choice(((2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (1, 1), (2, 2), (3, 3)))
    order = "more" if more > fewer else "equal"
    if order == "equal":
        phrase = f"as many {noun(rng, a, 2)} as {noun(rng, b, 2)}"
    elif rng.random() < 0.5:
        phrase = f"more {noun(rng, a, 2)} than {noun(rng, b, 2)}"
    else:
        phrase = f"fewer {noun(rng, b, 2)} than {noun(rng, a, 2)}"
    claims: list[Claim] = [Compare(a, order, b)]
    if rng.random() < 0.5:
        phrase = f"{things(rng, a, more)} and {things(rng, b, fewer)}, {phrase}"
        claims += [Count(a, more), Count(b, fewer)]
    drawn = [Kind(shapes[0], colors[0])] * more + [Kind(shapes[1], colors[1])] * fewer
    return _plan(rng, drawn, phrase, claims, opening=0)


def differentiation(rng: Random, stratum: float) -> Plan:
    """Two circles, one red and the other blue."""
    shape, colors = rng.choice(SHAPES), _two_colors(rng)
    how = _pick(stratum, ("color", "size", "part"))
    if how == "color":
        kinds = [Kind(shape, colors[0]), Kind(shape, colors[1])]
        names: Sequence[str] = colors
    elif how == "size":
        kinds = [Kind(shape, colors[0], "small"), Kind(shape, colors[0], "large")]
        names = rng.choice((("small", "large"), ("little", "big")))
    else:
        names = rng.sample(PARTS, 2)
        kinds = [Kind(shape, colors[0], None, name) for name in names]
    shared = Kind(shape, colors[0] if how != "color" and rng.random() < 0.6 else None)
    claims: list[Claim] = [Count(shared, 2)]
    said = [kind if how == "color" else replace(kind, color=shared.color) for kind in kinds]
    claims += _one_each(said)
    wordings = (
        f"{things(rng, shared, 2)}, one {names[0]} and the other {names[1]}",
        f"{things(rng, shared, 2)}: one is {names[0]}, one is {names[1]}",
        f"{thing(rng, said[0])} and {thing(rng, said[1])}",
    )
    return _plan(rng, kinds, rng.choice(wordings), claims, opening=0)


def negation(rng: Random, stratum: float) -> Plan:
    """A red circle and no squares; two stars that are not blue."""
    (shape, absent), (color, avoided) = _two_shapes(rng), _two_colors(rng)
    number = 1 + int(stratum * 3)
    kind = Kind(shape, color)
    open_kind = Kind(shape)
    are, none = ("is", "it is not") if number == 1 else ("are", "none of them is")
    how = rng.randrange(4)
    if how == 0:
        phrase = f"{things(rng, open_kind, number)} that {are} not {avoided}"
        claims = [Count(open_kind, number), Count(Kind(shape, avoided), 0)]
    elif how == 1:
        without = rng.choice(("and no", "but no", "without any"))
        phrase = f"{things(rng, kind, number)} {without} {noun(rng, Kind(absent), 0)}"
        claims = [Count(kind, number), Count(Kind(absent), 0)]
    elif how == 2:
        phrase = f"{things(rng, kind, number)}, {rng.choice(('and nothing', 'but nothing'))} {avoided}"
        claims = [Count(kind, number), Count(Kind(color=avoided), 0)]
    else:
        phrase = f"{things(rng, open_kind, number)}, {none} {avoided}"
        claims = [Count(open_kind, number), Count(Kind(shape, avoided), 0)]
    return _plan(rng, [kind] * number, phrase, claims, opening=0)


def universality(rng: Random, stratum: float) -> Plan:
    """Three shapes, all of them red; every circle is blue."""
    number = 2 + int(stratum * 4)
    color = rng.choice(_COLORS)
    if rng.random() < 0.5:
        drawn = [Kind(rng.choice(SHAPES), color) for _ in range(number)]
        kind = Kind()
    else:
        drawn = [Kind(rng.choice(SHAPES), color)] * number
        kind = Kind(drawn[0].shape)
    one, many = noun(rng, kind), noun(rng, kind, number)
    counted = f"{NUMBERS[number]} {many}"
    wordings = (
        f"{counted}, all of them {color}",
        f"{counted}, each of them {color}",
        f"{'both' if number == 2 else f'all {NUMBERS[number]}'} {many} are {color}",
        f"{counted} and every {one} is {color}",
    )
    claims = [Count(kind, number), Every(kind, Kind(color=color))]
    return _plan(rng, drawn, rng.choice(wordings), claims, opening=0)


def _dense(rng: Random, number: int) -> Plan:
    """Everything is said: background, every object with size, part and color, and up to two relations."""
    large_left = LARGE_AT_MOST.get(number, 0)
    kinds = []
    for _ in range(number):
        large = large_left > 0 and rng.random() < 0.6
        large_left -= large
        how = rng.choice(PARTS) if large else "solid"
        kinds.append(Kind(rng.choice(SHAPES), rng.choice(_COLORS), "large" if large else "small", how))
    distinct = list(dict.fromkeys(kinds))
    claims: list[Claim] = [Count(kind, kinds.count(kind)) for kind in distinct]
    background = rng.choice(_BACKGROUNDS)
    phrase = listed([things(rng, kind, kinds.count(kind)) for kind in distinct])
    sentences = [opened(rng, on_background(rng, phrase, background), kinds.count(kinds[0]))]
    links: list[Link] = []
    unique = [index for index, kind in enumerate(kinds) if kinds.count(kind) == 1]
    for anchor, subject in list(pairwise(unique))[: min(rng.choice((0, 1, 1, 2)), MAX_OBJECTS - number)]:
        relation = rng.choice(DIRECTIONS)
        links.append((relation, subject, anchor))
        claims.append(Related(relation, kinds[subject], kinds[anchor]))
        names = [f"the {kinds[index].color} {kinds[index].shape}" for index in (subject, anchor)]
        sentences.append(f"{names[0]} is {rng.choice(RELATION_WORDS[relation])} {names[1]}")
    caption = ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) + "."
    return Plan(tuple(kinds), caption, (*claims, Background(background)), background, tuple(links))


PLANNERS: dict[str, tuple[Callable[[Random, float], Plan], float]] = {
    "single_object": (single_object, 5),
    "two_object": (two_object, 8),
    "counting": (counting, 16),
    "colors": (colors, 7),
    "position": (position, 14),
    "color_attr": (color_attr, 14),
    "attribute": (attribute, 5),
    "scene": (scene, 9),
    "spatial_relation": (spatial_relation, 6),
    "action_relation": (action_relation, 4),
    "part": (part, 4),
    "comparison": (comparison, 2),
    "differentiation": (differentiation, 2),
    "negation": (negation, 2),
    "universality": (universality, 2),
}
"""Every skill's planner and its share of the training mixture in per cent."""
