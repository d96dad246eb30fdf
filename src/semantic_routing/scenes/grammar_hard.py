"""Skills whose text is hard to understand, for comparisons that need headroom: what must be drawn is simple to draw.

They stand beside `SKILLS`, so that the benchmark's list of skills stays as it is.
"""

from dataclasses import replace
from random import Random

from .claims import Claim, Count, Description, Every, Ordinal, Related
from .geometry import DIRECTIONS
from .grammar import PLANNERS, Draws, Plan, Planner, colored, make_plan, one_each, pick, two_colors, two_shapes
from .words import NUMBERS, RELATION_WORDS, noun, thing, things
from .world import COLORS, SHAPES

_PLACES = ("first", "second", "third", "fourth")
SIDE_WORDS = {"left": "from the left", "right": "from the right", "above": "from the top", "below": "from the bottom"}
_SUMS = {
    "more": ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4)),
    "fewer": ((2, 1), (3, 1), (3, 2), (4, 1), (4, 2)),
    "twice": ((1, 2), (2, 4)),
}
"""How many of the first and of the second there are."""


def _two_described(rng: Random) -> list[Description]:
    return [Description(shape, color) for shape, color in zip(two_shapes(rng), two_colors(rng), strict=True)]


def coreference(rng: Draws) -> Plan:
    """A red circle and a blue star; the latter is above the former."""
    relation, objects, subject = pick(rng.stratum, DIRECTIONS), _two_described(rng), rng.randrange(2)
    names = rng.choice((("the former", "the latter"), ("the first", "the second")))
    words = rng.choice(RELATION_WORDS[relation])
    phrase = f"{thing(rng, objects[0])} and {thing(rng, objects[1])}; {names[subject]} is {words} {names[1 - subject]}"
    claims = [*one_each(objects), Related(relation, objects[subject], objects[1 - subject])]
    return make_plan(rng, objects, phrase, claims, [(relation, subject, 1 - subject)], opening=0)


def other_one(rng: Draws) -> Plan:
    """Two circles, one of them red; the other one is blue and above it."""
    relation, shape = pick(rng.stratum, DIRECTIONS), Description(rng.choice(SHAPES))
    one, other = (replace(shape, color=color) for color in two_colors(rng))
    words = rng.choice(RELATION_WORDS[relation])
    phrase = f"two {noun(rng, shape, 2)}, one of them {one.color}; the other one is {other.color} and {words} it"
    claims = [Count(shape, 2), *one_each([one, other]), Related(relation, other, one)]
    return make_plan(rng, [one, other], phrase, claims, [(relation, 1, 0)], opening=0)


def nested_relation(rng: Draws) -> Plan:
    """A red circle left of the blue star that is above a green square."""
    outer, inner = pick(rng.stratum, DIRECTIONS), rng.choice(DIRECTIONS)
    shapes, colors = rng.sample(SHAPES, 3), rng.sample(tuple(COLORS), 3)
    middle, subject, last = (Description(*each) for each in zip(shapes, colors, strict=True))
    words = [rng.choice(RELATION_WORDS[relation]) for relation in (outer, inner)]
    phrase = f"{thing(rng, subject)} {words[0]} the {noun(rng, middle)} that is {words[1]} {thing(rng, last)}"
    claims = [*one_each([middle, subject, last]), Related(outer, subject, middle), Related(inner, middle, last)]
    return make_plan(rng, [middle, subject, last], phrase, claims, [(outer, 1, 0), (inner, 0, 2)], opening=0)


def size_comparison(rng: Draws) -> Plan:
    """A red circle and a blue star, the former smaller than the latter; two circles, the larger of them red."""
    if rng.stratum < 0.5:
        first, second = _two_described(rng)
        small, large = replace(first, size="small"), replace(second, size="large")
        names = [thing(rng, replace(each, size=None)) for each in (small, large)]
        phrase = rng.choice((f"{names[0]} smaller than {names[1]}", f"{names[1]} larger than {names[0]}"))
        return make_plan(rng, [small, large], phrase, one_each([small, large]), opening=0)
    shape = Description(rng.choice(SHAPES))
    first_color, second_color = two_colors(rng)
    small, large = replace(shape, color=first_color, size="small"), replace(shape, color=second_color, size="large")
    said = [f"the smaller one is {small.color}", f"the larger one is {large.color}"]
    phrase = f"two {noun(rng, shape, 2)}; {' and '.join(rng.sample(said, 2))}"
    return make_plan(rng, [small, large], phrase, [Count(shape, 2), *one_each([small, large])], opening=0)


def every_of_each(rng: Draws) -> Plan:
    """Every circle is red and every star is blue."""
    objects = _two_described(rng)
    shapes = [replace(each, color=None) for each in objects]
    numbers = rng.unsaid.choice(((1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2)))
    said = [f"every {one.shape} is {one.color}" for one in objects]
    phrase = rng.choice((" and ", ", while ")).join(said)
    claims = [Every(shape, Description(color=one.color)) for shape, one in zip(shapes, objects, strict=True)]
    drawn = [one for one, number in zip(objects, numbers, strict=True) for _ in range(number)]
    return make_plan(rng, drawn, phrase, claims, opening=0)


def ordinal(rng: Draws) -> Plan:
    """Three circles; the second from the left is red and the others are blue."""
    number, side = rng.choice((3, 4)), pick(rng.stratum, DIRECTIONS)
    place = rng.randrange(number)
    shape = Description(rng.choice(SHAPES))
    one, other = (replace(shape, color=color) for color in two_colors(rng))
    many = f"{NUMBERS[number]} {noun(rng, shape, number)}"
    phrase = f"{many}; the {_PLACES[place]} {SIDE_WORDS[side]} is {one.color} and the others are {other.color}"
    claims = [Count(Description(), number), Count(one, 1), Count(other, number - 1), Ordinal(place + 1, side, one)]
    return make_plan(rng, [one] + [other] * (number - 1), phrase, claims, opening=0)


def arithmetic(rng: Draws) -> Plan:
    """Two circles and two more squares than circles."""
    how = pick(rng.stratum, tuple(_SUMS))
    number, others = rng.choice(_SUMS[how])
    first, second = (Description(shape) for shape in two_shapes(rng))
    difference = abs(others - number)
    if how == "twice":
        words = f"twice as many {noun(rng, second, 2)} as"
    else:
        words = f"{NUMBERS[difference]} {how} {noun(rng, second, difference)} than"
    phrase = f"{NUMBERS[number]} {noun(rng, first, number)} and {words} {noun(rng, first, 2)}"
    drawn = [colored(rng, first)] * number + [colored(rng, second)] * others
    return make_plan(rng, drawn, phrase, [Count(first, number), Count(second, others)], opening=0)


def exclusion(rng: Draws) -> Plan:
    """Three circles; all but the red one are small. Four shapes; all but the star are blue."""
    number, (color, other) = rng.choice((3, 4)), two_colors(rng)
    if rng.random() < 0.5:
        shape = Description(rng.choice(SHAPES))
        one, small = replace(shape, color=color, size="large"), replace(shape, size="small")
        others = [each for each in COLORS if each != color]
        rest = [replace(small, color=rng.unsaid.choice(others)) for _ in range(number - 1)]
        phrase = f"{things(rng, shape, number)}; all but the {color} one are small"
        claims: list[Claim] = [Count(shape, number), Count(replace(shape, color=color), 1), Count(one, 1)]
        return make_plan(rng, [one, *rest], phrase, [*claims, Count(small, number - 1)], opening=0)
    one = Description(rng.choice(SHAPES), color)
    shapes = [shape for shape in SHAPES if shape != one.shape]
    rest = [Description(rng.unsaid.choice(shapes), other) for _ in range(number - 1)]
    phrase = f"{things(rng, Description(), number)}; all but the {one.shape} are {other}"
    claims = [Count(Description(), number), Count(Description(one.shape), 1), Count(Description(one.shape, other), 0)]
    one = Description(one.shape, rng.unsaid.choice([each for each in COLORS if each != other]))
    return make_plan(rng, [one, *rest], phrase, [*claims, Count(Description(color=other), number - 1)], opening=0)


HARD_PLANNERS: dict[str, tuple[Planner, float]] = {
    "coreference": (coreference, 1),
    "other_one": (other_one, 1),
    "nested_relation": (nested_relation, 1),
    "size_comparison": (size_comparison, 1),
    "every_of_each": (every_of_each, 1),
    "ordinal": (ordinal, 1),
    "arithmetic": (arithmetic, 1),
    "exclusion": (exclusion, 1),
}
"""Each hard skill's planner and its share, where several are named."""

HARD_SKILLS: tuple[str, ...] = tuple(HARD_PLANNERS)
"""Skills whose text is hard to understand."""

PLANNERS.update(HARD_PLANNERS)
