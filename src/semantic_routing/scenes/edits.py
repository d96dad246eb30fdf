"""Minimal edits of a caption: the smallest changes of its words that make it false of its scene.

Each editor reads the grammar's own wordings and proposes captions with their claims. `edits` keeps what is false.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from zlib import crc32

from .claims import Background, Claim, Compare, Count, Description, Ordinal, Related
from .geometry import OPPOSITE
from .grammar_hard import SIDE_WORDS
from .stream import SceneSample
from .words import NUMBERS, PART_WORDS, RELATION_WORDS, SIZE_WORDS, plural
from .world import BACKGROUNDS, COLORS, PARTS, RADII, SHAPES


@dataclass(frozen=True)
class Edit:
    """A caption that differs from a sample's in one thing, and is not true of its scene."""

    kind: str
    """What was changed; one of `EDIT_KINDS`."""
    caption: str
    """The new caption."""
    claims: tuple[Claim, ...]
    """Its claims, in the order of the sample's."""
    false_claims: tuple[Claim, ...]
    """Those that the sample's scene does not satisfy."""


class _Proposal(NamedTuple):
    caption: str
    claims: Sequence[Claim]


Proposals = Iterator[Sequence[_Proposal]]
"""For each thing that can be changed, the changes in the order of preference."""


def _either(words: Sequence[str]) -> str:
    """A pattern for any of the words, the longest first."""
    return "(?:" + "|".join(sorted(map(re.escape, set(words)), key=len, reverse=True)) + ")"


_MEANINGS = {
    word: (name, value)
    for name, table in (("size", SIZE_WORDS), ("part", PART_WORDS), ("color", {color: (color,) for color in COLORS}))
    for value, words in table.items()
    for word in words
}
_NOUNS = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
_NOUNS |= dict.fromkeys(("object", "objects", "shape", "shapes"), "")
_NUMERALS = {"a": 1, "an": 1} | {word: number for number, word in enumerate(NUMBERS)} | {str(n): n for n in range(2, 7)}
_THING = rf"((?:{_either(list(_MEANINGS))} )*)({_either(list(_NOUNS))})\b"
_COUNTED = re.compile(rf"\b({_either(list(_NUMERALS))}) {_THING}")
_NAMED = re.compile(rf"\b([Aa]n?|[Tt]he) {_THING}")
_RELATION = re.compile(rf"\b{_either([word for words in RELATION_WORDS.values() for word in words])}\b")


def _parsed(adjectives: str, noun: str) -> Description:
    return Description(shape=_NOUNS[noun] or None, **dict(_MEANINGS[word] for word in adjectives.split()))


def _with_articles(caption: str) -> str:
    """The caption with "a" and "an" as the next letter wants them."""
    return re.sub(r"\b([Aa])n? (\w)", lambda m: f"{m[1]}{'n' if m[2] in 'aeiou' else ''} {m[2]}", caption)


def _exchanged(caption: str, words: Mapping[str, str]) -> str:
    """The caption with each word in place of another, all at once."""
    pattern = rf"\b{_either(list(words))}\b"
    return _with_articles(re.sub(pattern, lambda match: words[match[0]], caption))


def _occurrences(caption: str, words: Sequence[str]) -> int:
    return len(re.findall(rf"\b{_either(words)}\b", caption))


def _descriptions(claims: Sequence[Claim]) -> list[Description]:
    return [value for claim in claims for value in vars(claim).values() if isinstance(value, Description)]


def _with_claims(sample: SceneSample, new: Mapping[Claim, Claim]) -> list[Claim]:
    """The sample's claims with some replaced."""
    return [new.get(claim, claim) for claim in sample.claims]


def _with_values(claim: Claim, name: str, new: Mapping[str, str]) -> Claim:
    """The claim with attribute `name` of all its descriptions mapped by `new`."""
    described = {key: value for key, value in vars(claim).items() if isinstance(value, Description)}
    changed = {
        key: replace(value, **{name: new.get(getattr(value, name), getattr(value, name))})
        for key, value in described.items()
    }
    return replace(claim, **changed)


def _other_values(sample: SceneSample, name: str, words: Mapping[str, Sequence[str]]) -> Proposals:
    """One value of an attribute becomes another that the caption does not speak of."""
    said = _descriptions(sample.claims)
    values = list(dict.fromkeys(getattr(each, name) for each in said if getattr(each, name)))
    for value in values:
        alike = {each for each in said if getattr(each, name) == value}
        found = _occurrences(sample.caption, words[value])
        if found == 0 or (found > 1 and len(alike) > 1):
            continue
        start = crc32(sample.caption.encode()) % len(words)
        others = [other for other in (*words, *words)[start : start + len(words)] if other not in values]
        yield [
            _Proposal(
                _exchanged(sample.caption, dict(zip(words[value], words[other], strict=True))),
                [_with_values(claim, name, {value: other}) for claim in sample.claims],
            )
            for other in others
        ]


def _color(sample: SceneSample) -> Proposals:
    return _other_values(sample, "color", {color: (color,) for color in COLORS})


def _shape(sample: SceneSample) -> Proposals:
    return _other_values(sample, "shape", {shape: (shape, plural(shape)) for shape in SHAPES})


def _part(sample: SceneSample) -> Proposals:
    return _other_values(sample, "part", {part: PART_WORDS[part] for part in PARTS})


def _size(sample: SceneSample) -> Proposals:
    if sample.skill != "exclusion":  # where the caption says by the size of all others how large one is
        yield from _other_values(sample, "size", {size: SIZE_WORDS[size] for size in RADII})


def _background(sample: SceneSample) -> Proposals:
    for claim in sample.claims:
        if isinstance(claim, Background):
            names = [name for name in BACKGROUNDS if name != claim.name]
            name = names[crc32(sample.caption.encode()) % len(names)]
            caption = _exchanged(sample.caption, {claim.name: name})
            yield [_Proposal(caption, _with_claims(sample, {claim: Background(name)}))]


_NUMBER_SKILLS = frozenset({"single_object", "two_object", "counting", "colors", "color_attr", "attribute", "scene"})
_NUMBER_SKILLS |= {"position", "action_relation", "negation", "universality", "part"}
"""Elsewhere the words depend on a number in more places than one."""


def _number(sample: SceneSample) -> Proposals:
    caption = sample.caption
    for claim in sample.claims:
        if not isinstance(claim, Count) or claim.number == 0 or sample.skill not in _NUMBER_SKILLS:
            continue
        old, described = claim.number, claim.description
        found = [m for m in _COUNTED.finditer(caption) if _parsed(m[2], m[3]) == described and _NUMERALS[m[1]] == old]
        if len(found) != 1 or (old == 1 and re.search(r"\b(is|it|[Tt]he)\b", caption)):
            continue
        numeral, adjectives, noun = found[0].groups()
        proposals = []
        for new in (old + 1, old - 1) if crc32(caption.encode()) % 2 else (old - 1, old + 1):
            if not 2 <= new <= 5:
                continue
            phrase = f"{new if numeral.isdigit() else NUMBERS[new]} {adjectives}{plural(noun) if old == 1 else noun}"
            claims = _with_claims(sample, {Count(each, old): Count(each, new) for each in (described, Description())})
            proposals.append(_Proposal(caption[: found[0].start()] + phrase + caption[found[0].end() :], claims))
        yield proposals


def _relations(sample: SceneSample) -> Iterator[tuple[re.Match[str], Related]]:
    """The words of each relation with its claim."""
    claims = [claim for claim in sample.claims if isinstance(claim, Related)]
    found = list(_RELATION.finditer(sample.caption))
    if len(claims) == len(found):
        yield from zip(found, claims, strict=True)


def _relation(sample: SceneSample) -> Proposals:
    for match, claim in _relations(sample):
        if claim.relation in OPPOSITE:
            turned = OPPOSITE[claim.relation]
            words = RELATION_WORDS[turned][RELATION_WORDS[claim.relation].index(match[0]) % len(RELATION_WORDS[turned])]
            caption = sample.caption[: match.start()] + words + sample.caption[match.end() :]
            yield [_Proposal(caption, _with_claims(sample, {claim: replace(claim, relation=turned)}))]
    for ordinal in (claim for claim in sample.claims if isinstance(claim, Ordinal)):
        side = OPPOSITE[ordinal.side]
        caption = sample.caption.replace(SIDE_WORDS[ordinal.side], SIDE_WORDS[side])
        yield [_Proposal(caption, _with_claims(sample, {ordinal: replace(ordinal, side=side)}))]


def _objects(sample: SceneSample) -> Proposals:
    """The two objects of a relation change places."""
    for match, claim in _relations(sample):
        claims = _with_claims(sample, {claim: replace(claim, subject=claim.anchor, anchor=claim.subject)})
        before = [found for found in _NAMED.finditer(sample.caption) if found.end() <= match.start()]
        after = _NAMED.search(sample.caption, match.end())
        if sample.skill == "coreference":
            names = {"former": "latter", "latter": "former", "first": "second", "second": "first"}
            yield [_Proposal(_exchanged(sample.caption, names), claims)]
        elif before and after and sample.skill != "nested_relation":
            first, between = before[-1], sample.caption[before[-1].end() : after.start()]
            if between not in (f" {match[0]} ", f" is {match[0]} "):
                continue
            new_first = (str.capitalize if first[0][0].isupper() else str)(after[0])
            caption = (
                sample.caption[: first.start()] + new_first + between + first[0].lower() + sample.caption[after.end() :]
            )
            yield [_Proposal(caption, claims)]


def _colors(sample: SceneSample) -> Proposals:
    """Two colors change places."""
    colors = list(dict.fromkeys(each.color for each in _descriptions(sample.claims) if each.color))
    if len(colors) == 2 and all(_occurrences(sample.caption, [color]) == 1 for color in colors):
        new = {colors[0]: colors[1], colors[1]: colors[0]}
        yield [_Proposal(_exchanged(sample.caption, new), [_with_values(c, "color", new) for c in sample.claims])]


def _comparison(sample: SceneSample) -> Proposals:
    """More becomes fewer, as many becomes more, larger becomes smaller."""
    caption, claims = sample.caption, sample.claims
    if sample.skill == "size_comparison":
        words = {"smaller": "larger", "larger": "smaller"}
        new = {"small": "large", "large": "small"}
        yield [_Proposal(_exchanged(caption, words), [_with_values(claim, "size", new) for claim in claims])]
    if sample.skill == "arithmetic":
        first, second = (claim for claim in claims if isinstance(claim, Count))
        turned = replace(second, number=2 * first.number - second.number)
        if "twice as many" in caption:
            yield [
                _Proposal(caption.replace("twice as many", "as many"), [first, replace(second, number=first.number)])
            ]
        elif turned.number > 0:
            yield [_Proposal(_exchanged(caption, {"more": "fewer", "fewer": "more"}), [first, turned])]
    if len(claims) == 1 and isinstance(claims[0], Compare):
        compare = claims[0]
        if compare.order == "equal":
            more = re.sub(r"as many (.+) as ", r"more \1 than ", caption)
            yield [_Proposal(more, [replace(compare, order="more")])]
        else:
            turned_claim = Compare(compare.second, "more", compare.first)
            yield [_Proposal(_exchanged(caption, {"more": "fewer", "fewer": "more"}), [turned_claim])]


def _negation(sample: SceneSample) -> Proposals:
    """What is denied is asserted."""
    denied = [claim for claim in sample.claims if isinstance(claim, Count) and claim.number == 0]
    for claim in denied if sample.skill == "negation" else ():
        counted = next(each for each in sample.claims if isinstance(each, Count) and each.number > 0)
        color, shape = claim.description.color, claim.description.shape
        rewritten = {
            rf"(and no|but no|without any) {plural(shape or '')}$": rf"and one {shape}",
            rf"(and|but) nothing {color}$": rf"and one {color} shape",
        }
        plain = {rf" not {color}$": f" {color}", rf"none of them is {color}$": f"each of them is {color}"}
        for pattern, words in {**rewritten, **plain}.items():
            if re.search(pattern, sample.caption):
                number = 1 if pattern in rewritten else counted.number
                claims = _with_claims(sample, {claim: replace(claim, number=number)})
                yield [_Proposal(re.sub(pattern, words, sample.caption), claims)]


_EDITORS: dict[str, Callable[[SceneSample], Proposals]] = {
    "color": _color,
    "shape": _shape,
    "number": _number,
    "size": _size,
    "part": _part,
    "background": _background,
    "relation": _relation,
    "objects": _objects,
    "colors": _colors,
    "comparison": _comparison,
    "negation": _negation,
}

EDIT_KINDS: tuple[str, ...] = tuple(_EDITORS)
"""Another color, shape, number, size, part or background; a relation turned; the objects of a relation or two colors
exchanged; a comparison turned; a negation dropped."""


def _impossible(claims: Sequence[Claim]) -> bool:
    """Whether the claims deny what they assert, or speak of a small shape with a hole, which this world has not."""
    if any(each.size == "small" and each.part in ("outlined", "striped") for each in _descriptions(claims)):
        return True
    counts = [claim for claim in claims if isinstance(claim, Count)]
    there = [vars(claim.description) for claim in counts if claim.number > 0]
    denied = [{k: v for k, v in vars(claim.description).items() if v} for claim in counts if claim.number == 0]
    return any(none.items() <= some.items() for none in denied for some in there)


def edits(sample: SceneSample) -> list[Edit]:
    """Minimal edits of the sample's caption, each of which makes it false of the sample's scene.

    Claims that do not speak of what was changed stay as they are, and true. Of those that do, at least one is false. A
    changed color makes false both that there is a red circle and that the red circle is left of a star.
    """
    found = []
    for kind, editor in _EDITORS.items():
        for proposals in editor(sample):
            for caption, claims in proposals:
                false = tuple(claim for claim in claims if not claim.holds(sample.scene))
                if false and caption != sample.caption and not _impossible(claims):
                    found.append(Edit(kind, caption, tuple(claims), false))
                    break
    return found
