"""The caption grammar: for each skill a function that plans a scene, words its caption and states its claims.

A plan lists the objects and how they are linked; their places are found afterwards (`layout.place`).
A caption covers every object of its scene, but it may leave open what an object looks like. What it leaves open is
drawn apart (`Draws.unsaid`), so that one caption has endless pictures.

Claims say what the caption says. "A circle" is one circle, and a picture with a square beside it is not wrong, as in
GenEval. Captions that count, deny or speak of all exclude more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from random import Random

from .claims import Background, Claim, Compare, Count, Description, Every, Related
from .geometry import DIRECTIONS
from .layout import Link
from .words import NUMBERS, PART_WORDS, RELATION_WORDS, listed, noun, on_background, opened, thing, things
from .world import BACKGROUNDS, COLORS, HOST, MAX_OBJECTS, PARTS, SHAPES, SceneObject

_BACKGROUNDS, _COLORS = tuple(BACKGROUNDS), tuple(COLORS)
_UNPLACED = 0.5

LARGE_AT_MOST = {1: 1, 2: 2, 3: 1, 4: 1}
"""How many of that many objects may be large so that all find room; none of more."""


class Draws(Random):
    """The random draws of a plan: what the caption says from one seed, what it leaves open from another.

    Two plans of one `seed` and `stratum` have the same caption and the same claims.

    Args:
        seed: decides what the caption says.
        stratum: a number in [0, 1) by which a planner chooses what must be drawn evenly, such as the number to count.
            It stays when a plan is rejected and drawn anew, so that rejection leaves these shares even.
        unsaid: seed of what the caption leaves open; default: one that follows from `seed`.
    """

    def __init__(self, seed: str, stratum: float, unsaid: str | None = None) -> None:
        super().__init__(seed)
        self.stratum = stratum
        self._unsaid_seed = unsaid or f"{seed} unsaid"

    @cached_property
    def unsaid(self) -> Random:
        """Draws what the caption leaves open."""
        return Random(self._unsaid_seed)


@dataclass(frozen=True)
class Plan:
    """A scene without places: the objects with what is settled of each, their links, and what is said.

    A background of None is drawn from all.
    """

    objects: tuple[Description, ...]
    caption: str
    claims: tuple[Claim, ...]
    background: str | None = None
    links: tuple[Link, ...] = ()


Planner = Callable[[Draws], Plan]


def complete(unsaid: Random, plan: Plan) -> list[SceneObject]:
    """The planned objects with every open attribute drawn: few large ones, solid unless planned otherwise."""
    large_left = LARGE_AT_MOST.get(len(plan.objects), 0)
    large_left -= sum(each.size == "large" or each.part in ("outlined", "striped") for each in plan.objects)
    objects = []
    for each in plan.objects:
        size = each.size or ("large" if each.part in ("outlined", "striped") else None)
        if size is None:
            size = "large" if large_left > 0 and unsaid.random() < 0.5 else "small"
            large_left -= size == "large"
        color = each.color or unsaid.choice(_COLORS)
        objects.append(SceneObject(each.shape or "", color, size, _UNPLACED, _UNPLACED, each.part or "solid"))
    return objects


def make_plan(
    rng: Draws,
    objects: Sequence[Description],
    phrase: str,
    claims: Sequence[Claim],
    links: Sequence[Link] = (),
    naming: float = 0.15,
    opening: int = 1,
) -> Plan:
    """A plan whose caption is `phrase`, perhaps with an opener before it and the background after it.

    Args:
        rng: the draws.
        objects: what is drawn.
        phrase: the words for it.
        claims: what the words claim.
        links: relations between objects by index.
        naming: probability that the background is named.
        opening: how many things the opener speaks of; 0 takes the phrase as it is, without opener or background.
    """
    background = None
    if opening and rng.random() < naming:
        background = rng.choice(_BACKGROUNDS)
        phrase, claims = on_background(rng, phrase, background), (*claims, Background(background))
    if opening:
        phrase = opened(rng, phrase, opening)
    return Plan(tuple(objects), phrase, tuple(claims), background, tuple(links))


def pick(stratum: float, options: Sequence[str]) -> str:
    """The option at `stratum`, a number in [0, 1)."""
    return options[int(stratum * len(options))]


def colored(rng: Draws, described: Description) -> Description:
    """`described` with a color, which is drawn where the caption leaves it open."""
    return replace(described, color=described.color or rng.unsaid.choice(_COLORS))


def one_each(objects: Sequence[Description]) -> list[Claim]:
    """The claims that there is exactly one of each."""
    return [Count(each, 1) for each in objects]


def two_shapes(rng: Random) -> tuple[str, str]:
    """Two different shapes."""
    first, second = rng.sample(SHAPES, 2)
    return first, second


def two_colors(rng: Random) -> tuple[str, str]:
    """Two different colors."""
    first, second = rng.sample(_COLORS, 2)
    return first, second


# The skills. A caption covers every object of its scene. It may leave open what an object looks like.


def single_object(rng: Draws) -> Plan:
    """A circle."""
    described = Description(rng.choice(SHAPES))
    return make_plan(rng, [described], things(rng, described, 1), one_each([described]), naming=0.5)


def two_object(rng: Draws) -> Plan:
    """A circle and a square."""
    objects = [Description(shape) for shape in two_shapes(rng)]
    wording = rng.choice(("{} and {}", "{} and {}", "{} with {}", "{} next to {}", "both {} and {}"))
    phrase = wording.format(*(thing(rng, described) for described in objects))
    return make_plan(rng, objects, phrase, one_each(objects), naming=0.4)


def counting(rng: Draws) -> Plan:
    """Three red circles, and nothing else."""
    number = 1 + int(rng.stratum * 5)
    described = Description(rng.choice(SHAPES), rng.choice(_COLORS) if rng.random() < 0.7 else None)
    phrase = things(rng, described, number)
    if rng.random() < 0.1:
        phrase = f"exactly {NUMBERS[number]} {noun(rng, described, number)}"
    claims = [Count(described, number), Count(Description(), number)]
    return make_plan(rng, [colored(rng, described)] * number, phrase, claims, opening=number)


def colors(rng: Draws) -> Plan:
    """A red circle."""
    described = Description(rng.choice(SHAPES), rng.choice(_COLORS))
    words = thing(rng, described)
    if rng.random() < 0.2:
        words = f"{thing(rng, Description(described.shape))} that is {described.color}"
    return make_plan(rng, [described], words, one_each([described]), naming=0.25)


def _relation_phrase(rng: Random, relation: str, subject: str, anchor: str) -> str:
    words = rng.choice(RELATION_WORDS[relation])
    return rng.choice((f"{subject} {words} {anchor}", f"{subject} {words} {anchor}", f"{subject} is {words} {anchor}"))


def position(rng: Draws) -> Plan:
    """A circle to the left of a square."""
    relation = pick(rng.stratum, DIRECTIONS)
    a, b = (Description(shape) for shape in two_shapes(rng))
    phrase = f"{thing(rng, a)} {rng.choice(RELATION_WORDS[relation])} {thing(rng, b)}"
    return make_plan(rng, [a, b], phrase, [*one_each([a, b]), Related(relation, a, b)], [(relation, 0, 1)], naming=0.1)


def color_attr(rng: Draws) -> Plan:
    """A red circle and a blue square."""
    objects = [Description(shape, color) for shape, color in zip(two_shapes(rng), two_colors(rng), strict=True)]
    wording = rng.choice(("{} and {}", "{} and {}", "{} and {}", "{} with {}", "{} next to {}"))
    phrase = wording.format(*(thing(rng, described) for described in objects))
    return make_plan(rng, objects, phrase, one_each(objects), naming=0.1)


def attribute(rng: Draws) -> Plan:
    """A large striped red circle, alone or with another object."""
    shapes, colors = two_shapes(rng), two_colors(rng)
    objects = []
    for shape, color in list(zip(shapes, colors, strict=True))[: 1 + (rng.random() < 0.5)]:
        part = rng.choice((None, *PARTS))
        size = "large" if part in ("outlined", "striped") else rng.choice(("small", "large"))
        objects.append(Description(shape, color, size, part))
    phrase = listed([thing(rng, described) for described in objects])
    return make_plan(rng, objects, phrase, one_each(objects))


def scene(rng: Draws) -> Plan:
    """A red circle and two blue stars on a beige background; half of the captions are dense."""
    if rng.stratum < 0.5:
        return _dense(rng, 1 + int(rng.stratum * 2 * MAX_OBJECTS))
    groups = list(zip(two_shapes(rng), two_colors(rng), strict=True))[: 1 + (rng.random() < 0.5)]
    objects = [Description(shape, color if rng.random() < 0.8 else None) for shape, color in groups]
    numbers = [rng.choice((1, 1, 2)) for _ in objects]
    phrase = listed([things(rng, *group) for group in zip(objects, numbers, strict=True)])
    claims = [Count(each, number) for each, number in zip(objects, numbers, strict=True)]
    drawn = [each for some, number in zip(objects, numbers, strict=True) for each in [colored(rng, some)] * number]
    return make_plan(rng, drawn, phrase, claims, naming=1.0, opening=numbers[0])


def spatial_relation(rng: Draws) -> Plan:
    """A red circle left of a blue square, and perhaps a third object by one of the two."""
    relation = pick(rng.stratum, DIRECTIONS)
    number = rng.choice((2, 2, 3))
    shapes, colors = rng.sample(SHAPES, number), rng.sample(_COLORS, number)
    sized = rng.random() < 0.3 and number == 2
    objects = [
        Description(shape, color, rng.choice(("small", "large")) if sized else None)
        for shape, color in zip(shapes, colors, strict=True)
    ]
    claims = [*one_each(objects), Related(relation, objects[0], objects[1])]
    links: list[Link] = [(relation, 0, 1)]
    phrase = _relation_phrase(rng, relation, thing(rng, objects[0]), thing(rng, objects[1]))
    if number == 3:
        anchor, second = rng.randrange(2), rng.choice(DIRECTIONS)
        claims.append(Related(second, objects[2], objects[anchor]))
        links.append((second, 2, anchor))
        known = f"the {noun(rng, objects[anchor])}"
        phrase += ", and " + _relation_phrase(rng, second, thing(rng, objects[2]), known)
    return make_plan(rng, objects, phrase, claims, links, opening=0)


def action_relation(rng: Draws) -> Plan:
    """A red circle touching a blue square, or a small red star inside a large blue circle."""
    relation = pick(rng.stratum, ("touching", "inside"))
    a, b = (Description(shape, color) for shape, color in zip(two_shapes(rng), two_colors(rng), strict=True))
    said_a, said_b, objects = a, b, [a, b]
    if relation == "inside":
        a = replace(a, shape=rng.choice([shape for shape in SHAPES if shape != HOST]))
        b = replace(b, shape=HOST)
        objects = [replace(b, size="large", part="outlined"), replace(a, size="small", part="solid")]
        said_a = rng.choice((a, replace(a, size="small")))
        said_b = rng.choice((b, replace(b, part="outlined"), replace(b, size="large", part="outlined")))
    phrase = f"{thing(rng, said_a)} {rng.choice(RELATION_WORDS[relation])} {thing(rng, said_b)}"
    claims = [*one_each([said_a, said_b]), Related(relation, said_a, said_b)]
    link = ("inside", 1, 0) if relation == "inside" else ("touching", 0, 1)
    return make_plan(rng, objects, phrase, claims, [link])


def part(rng: Draws) -> Plan:
    """A red circle with stripes, alone or beside a solid object."""
    how = pick(rng.stratum, ("outlined", "striped", "solid"))
    shapes, colors = two_shapes(rng), two_colors(rng)
    described = Description(shapes[0], colors[0] if rng.random() < 0.7 else None, None, how)
    words = thing(rng, described)
    if rng.random() < 0.4:
        plain = thing(rng, replace(described, part=None))
        words = f"{plain} {PART_WORDS[how][-1]}"
    objects = [described]
    if rng.random() < 0.4:
        objects.append(Description(shapes[1], colors[1] if described.color else None))
        words = f"{words} and {thing(rng, objects[1])}"
    return make_plan(rng, objects, words, one_each(objects))


def comparison(rng: Draws) -> Plan:
    """More red circles than blue squares, or as many."""
    first, second = two_shapes(rng), two_colors(rng)
    named = rng.random() < 0.6
    a, b = (Description(shape, color if named else None) for shape, color in zip(first, second, strict=True))
    order = "more" if rng.random() < 0.625 else "equal"
    numbers = ((2, 1), (3, 1), (3, 2), (4, 1), (4, 2)) if order == "more" else ((1, 1), (2, 2), (3, 3))
    if order == "equal":
        phrase = f"as many {noun(rng, a, 2)} as {noun(rng, b, 2)}"
    elif rng.random() < 0.5:
        phrase = f"more {noun(rng, a, 2)} than {noun(rng, b, 2)}"
    else:
        phrase = f"fewer {noun(rng, b, 2)} than {noun(rng, a, 2)}"
    claims: list[Claim] = [Compare(a, order, b)]
    counted = rng.random() < 0.5
    more, fewer = (rng if counted else rng.unsaid).choice(numbers)
    if counted:
        phrase = f"{things(rng, a, more)} and {things(rng, b, fewer)}, {phrase}"
        claims += [Count(a, more), Count(b, fewer)]
    return make_plan(rng, [colored(rng, a)] * more + [colored(rng, b)] * fewer, phrase, claims, opening=0)


def differentiation(rng: Draws) -> Plan:
    """Two circles, one red and the other blue."""
    how = pick(rng.stratum, ("color", "size", "part"))
    shared = Description(rng.choice(SHAPES), rng.choice(_COLORS) if how != "color" and rng.random() < 0.6 else None)
    if how == "color":
        names: Sequence[str] = two_colors(rng)
        said = [replace(shared, color=name) for name in names]
    elif how == "size":
        names = rng.choice((("small", "large"), ("little", "big")))
        said = [replace(shared, size=size) for size in ("small", "large")]
    else:
        names = rng.sample(PARTS, 2)
        said = [replace(shared, part=name) for name in names]
    color = colored(rng, shared).color
    objects = [replace(each, color=each.color or color) for each in said]
    claims = [Count(shared, 2), *one_each(said)]
    wordings = (
        f"{things(rng, shared, 2)}, one {names[0]} and the other {names[1]}",
        f"{things(rng, shared, 2)}: one is {names[0]}, one is {names[1]}",
        f"{thing(rng, said[0])} and {thing(rng, said[1])}",
    )
    return make_plan(rng, objects, rng.choice(wordings), claims, opening=0)


def negation(rng: Draws) -> Plan:
    """A red circle and no squares; two stars that are not blue."""
    (shape, absent), (color, avoided) = two_shapes(rng), two_colors(rng)
    number = 1 + int(rng.stratum * 3)
    described, open_color = Description(shape, color), Description(shape)
    are, none = ("is", "it is not") if number == 1 else ("are", "none of them is")
    how = rng.randrange(4)
    if how == 0:
        phrase = f"{things(rng, open_color, number)} that {are} not {avoided}"
        claims = [Count(open_color, number), Count(Description(shape, avoided), 0)]
    elif how == 1:
        without = rng.choice(("and no", "but no", "without any"))
        phrase = f"{things(rng, described, number)} {without} {noun(rng, Description(absent), 0)}"
        claims = [Count(described, number), Count(Description(absent), 0)]
    elif how == 2:
        phrase = f"{things(rng, described, number)}, {rng.choice(('and nothing', 'but nothing'))} {avoided}"
        claims = [Count(described, number), Count(Description(color=avoided), 0)]
    else:
        phrase = f"{things(rng, open_color, number)}, {none} {avoided}"
        claims = [Count(open_color, number), Count(Description(shape, avoided), 0)]
    if how in (0, 3):
        described = replace(described, color=rng.unsaid.choice([other for other in _COLORS if other != avoided]))
    return make_plan(rng, [described] * number, phrase, claims, opening=0)


def universality(rng: Draws) -> Plan:
    """Three shapes, all of them red; every circle is blue."""
    number = 2 + int(rng.stratum * 4)
    color = rng.choice(_COLORS)
    described = Description(rng.choice((None, rng.choice(SHAPES))))
    drawn = [Description(described.shape or rng.unsaid.choice(SHAPES), color) for _ in range(number)]
    one, many = noun(rng, described), noun(rng, described, number)
    counted = f"{NUMBERS[number]} {many}"
    wordings = (
        f"{counted}, all of them {color}",
        f"{counted}, each of them {color}",
        f"{'both' if number == 2 else f'all {NUMBERS[number]}'} {many} are {color}",
        f"{counted} and every {one} is {color}",
    )
    claims = [Count(described, number), Every(described, Description(color=color))]
    return make_plan(rng, drawn, rng.choice(wordings), claims, opening=0)


def short_name(described: Description, among: Sequence[Description]) -> Description:
    """As many attributes of `described` as tell it from the others `among` them, but at least color and shape."""
    for extra in ((), ("size",), ("part",)):
        named = ("shape", "color", *extra)
        short = Description(**{name: getattr(described, name) for name in named})
        if sum(all(getattr(each, name) == getattr(short, name) for name in named) for each in among) == 1:
            return short
    return described


def _dense(rng: Random, number: int) -> Plan:
    """Everything is said: background, every object with size, part and color, and up to two relations."""
    large_left = LARGE_AT_MOST.get(number, 0)
    objects = []
    for _ in range(number):
        large = large_left > 0 and rng.random() < 0.6
        large_left -= large
        how = rng.choice(PARTS) if large else "solid"
        objects.append(Description(rng.choice(SHAPES), rng.choice(_COLORS), "large" if large else "small", how))
    distinct = list(dict.fromkeys(objects))
    claims: list[Claim] = [Count(described, objects.count(described)) for described in distinct]
    background = rng.choice(_BACKGROUNDS)
    phrase = listed([things(rng, described, objects.count(described)) for described in distinct])
    sentences = [opened(rng, on_background(rng, phrase, background), objects.count(objects[0]))]
    links: list[Link] = []
    unique = [index for index, described in enumerate(objects) if objects.count(described) == 1]
    for anchor, subject in list(pairwise(unique))[: min(rng.choice((0, 1, 1, 2)), MAX_OBJECTS - number)]:
        relation = rng.choice(DIRECTIONS)
        links.append((relation, subject, anchor))
        claims.append(Related(relation, objects[subject], objects[anchor]))
        names = [f"the {noun(rng, short_name(objects[index], distinct))}" for index in (subject, anchor)]
        sentences.append(f"{names[0]} is {rng.choice(RELATION_WORDS[relation])} {names[1]}")
    caption = ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) + "."
    return Plan(tuple(objects), caption, (*claims, Background(background)), background, tuple(links))


PLANNERS: dict[str, tuple[Planner, float]] = {
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

SKILLS: tuple[str, ...] = tuple(PLANNERS)
"""What captions exercise: GenEval's six skills by their names there, then those of GenAI-Bench."""
