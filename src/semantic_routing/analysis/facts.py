"""What captions of the embedded world say, claim by claim, and at which words it can be looked for."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count as numbers
from typing import NamedTuple

from ..scenes import Background, Count, Description, Ordinal, Related, SceneSample, sample_scene
from ..scenes.words import NUMBERS, PART_WORDS, SIZE_WORDS

ROLES = {
    "word": "the word that says it",
    "object": "a word of the object that it is said of",
    "last": "the last token",
    "mean": "the mean over all tokens",
}
"""Where a claim is looked for. The last token and the mean tell of the object that is named first."""

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
SIDE_WORDS = {
    "left": ("left",),
    "right": ("right",),
    "above": ("above", "over", "higher"),
    "below": ("below", "under", "beneath", "lower"),
}


class Fact(NamedTuple):
    """A claim's value, and the last characters of the word that says it and of a word that it is said of."""

    label: str
    word: int | None
    object: int | None


Finder = Callable[[SceneSample], Iterator[Fact]]


def end_of(caption: str, *spellings: str) -> int | None:
    """The last character of the first of these words, plural or not, that stands in the caption."""
    for spelling in sorted(spellings, key=len, reverse=True):
        found = re.search(rf"\b{re.escape(spelling)}(?:e?s)?\b", caption, re.IGNORECASE)
        if found:
            return found.end() - 1
    return None


def _described(sample: SceneSample) -> Iterator[tuple[Description, int]]:
    """What the caption counts, in the order of the caption, with its number; shapes are unlike in these skills."""
    counts = [claim for claim in sample.claims if isinstance(claim, Count) and claim.description.shape]
    for claim in sorted(counts, key=lambda claim: end_of(sample.caption, str(claim.description.shape)) or 0):
        yield claim.description, claim.number


def _attribute(name: str, spellings: Callable[[str], tuple[str, ...]]) -> Finder:
    def facts(sample: SceneSample) -> Iterator[Fact]:
        for described, _ in _described(sample):
            value = getattr(described, name)
            if value:
                word = end_of(sample.caption, *spellings(value))
                yield Fact(value, word, end_of(sample.caption, str(described.shape)))

    return facts


def _shapes(sample: SceneSample) -> Iterator[Fact]:
    for described, _ in _described(sample):
        shape = str(described.shape)
        yield Fact(shape, end_of(sample.caption, shape), end_of(sample.caption, str(described.color)))


def _numbers(sample: SceneSample) -> Iterator[Fact]:
    for described, number in _described(sample):
        word = end_of(sample.caption, NUMBERS[number], str(number))
        yield Fact(str(number), word, end_of(sample.caption, str(described.shape)))


def _related(sample: SceneSample) -> Related:
    return next(claim for claim in sample.claims if isinstance(claim, Related))


def _sides(sample: SceneSample) -> Iterator[Fact]:
    claim = _related(sample)
    word = end_of(sample.caption, *SIDE_WORDS[claim.relation])
    yield Fact(claim.relation, word, end_of(sample.caption, str(claim.subject.shape)))
    yield Fact(OPPOSITE[claim.relation], None, end_of(sample.caption, str(claim.anchor.shape)))


def _order(sample: SceneSample) -> Iterator[Fact]:
    claim = _related(sample)
    yield Fact("subject", None, end_of(sample.caption, str(claim.subject.shape)))
    yield Fact("anchor", None, end_of(sample.caption, str(claim.anchor.shape)))


def _absence(sample: SceneSample) -> Iterator[Fact]:
    """Of the words of what is named last: a word's place in the caption must not give the answer away."""
    claim = [claim for claim in sample.claims if isinstance(claim, Count)][-1]
    color, shape = claim.description.color, claim.description.shape
    if claim.number:
        yield Fact("there", None, end_of(sample.caption, str(color)))
        yield Fact("there", None, end_of(sample.caption, str(shape)))
    else:
        yield Fact("absent", None, end_of(sample.caption, color or str(shape)))


def _backgrounds(sample: SceneSample) -> Iterator[Fact]:
    for claim in sample.claims:
        if isinstance(claim, Background):
            yield Fact(claim.name, end_of(sample.caption, claim.name), end_of(sample.caption, "background"))


def _colors_referred_to(sample: SceneSample) -> Iterator[Fact]:
    """The color of what "the latter" or "it" stands for, which the words nearby do not say."""
    claim = _related(sample)
    last = end_of(sample.caption, "it")
    if last is not None:  # two circles, one of them red; the other one is blue and above it
        yield Fact(str(claim.anchor.color), last, None)
    else:  # a red circle and a blue star; the latter is above the former
        names = ("the former", "the latter", "the first", "the second")
        places = [place for name in names if (place := end_of(sample.caption, name)) is not None]
        for thing, place in zip((claim.subject, claim.anchor), sorted(places), strict=True):
            yield Fact(str(thing.color), place, None)


def _sums(sample: SceneSample) -> Iterator[Fact]:
    """How many there are of the second shape: two circles and two more squares than circles."""
    for described, number in list(_described(sample))[1:]:
        yield Fact(str(number), None, end_of(sample.caption, str(described.shape)))


def _places(sample: SceneSample) -> Iterator[Fact]:
    """Which one of a row has a color, at that color: the second from the left is red and the others are blue."""
    for claim in sample.claims:
        if isinstance(claim, Ordinal):
            yield Fact(str(claim.number), None, end_of(sample.caption, str(claim.description.color)))


def _compared_sizes(sample: SceneSample) -> Iterator[Fact]:
    """The size of what is named last: a red circle larger than a blue star; the smaller one is red."""
    counts = [claim for claim in sample.claims if isinstance(claim, Count) and claim.description.size]
    ends = {end_of(sample.caption, str(claim.description.color)) or 0: claim.description for claim in counts}
    place = max(ends)
    yield Fact(str(ends[place].size), None, place)


class ClaimType(NamedTuple):
    """A sort of claim: what finds it in a caption, and the skills whose captions have it."""

    find: Finder
    skills: Sequence[str]


CLAIM_TYPES: dict[str, ClaimType] = {
    "color": ClaimType(_attribute("color", lambda color: (color,)), ["color_attr"]),
    "shape": ClaimType(_shapes, ["color_attr"]),
    "number": ClaimType(_numbers, ["counting"]),
    "size": ClaimType(_attribute("size", SIZE_WORDS.__getitem__), ["attribute"]),
    "part": ClaimType(_attribute("part", PART_WORDS.__getitem__), ["part"]),
    "relation": ClaimType(_sides, ["position"]),
    "order": ClaimType(_order, ["position"]),
    # Two thirds of the captions deny, so that as many words are of either class.
    "negation": ClaimType(_absence, [*["negation"] * 14, "color_attr"]),
    "background": ClaimType(_backgrounds, ["scene"]),
    "referent": ClaimType(_colors_referred_to, ["coreference", "other_one"]),
    "sum": ClaimType(_sums, ["arithmetic"]),
    "place": ClaimType(_places, ["ordinal"]),
    "compared": ClaimType(_compared_sizes, ["size_comparison"]),
}
"""relation: on which of four sides an object lies; order: whether it is subject or anchor of the relation, which is
whether it is named first; negation: whether what is named last is there or denied; referent: the color of what a
pronoun stands for, one of two in the caption, so that half are right by chance; sum: a number that must be computed;
place: which one of a row has a color; compared: whether what is named last is small or large."""


class Said(NamedTuple):
    """Captions, and facts by the number of their caption; the first fact of a caption comes first."""

    captions: list[str]
    facts: list[tuple[int, Fact]]


def facts_of(claim: str, count: int, seed: int = 7) -> Said:
    """The facts of one claim type in the first `count` captions of its skills that have any.

    Raises:
        ValueError: an unknown claim type.
    """
    if claim not in CLAIM_TYPES:
        raise ValueError(f"Claim is {claim!r}, but must be one of {', '.join(CLAIM_TYPES)}.")
    find, skills = CLAIM_TYPES[claim]
    captions: list[str] = []
    facts: list[tuple[int, Fact]] = []
    for index in numbers():
        if len(captions) == count:
            break
        sample = sample_scene(seed, index, skills=skills)
        found = list(find(sample))
        if found:
            facts += [(len(captions), fact) for fact in found]
            captions.append(sample.caption)
    return Said(captions, facts)
