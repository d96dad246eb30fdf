"""What captions of the embedded world say, claim by claim, and at which words it can be looked for."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count as numbers
from typing import NamedTuple

from ..scenes import Background, Count, Description, Related, SceneSample, sample_scene
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
}
"""relation: on which of four sides an object lies; order: whether it is subject or anchor of the relation, which is
whether it is named first; negation: whether what is named last is there or denied."""


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
