"""How things are called: noun phrases, numbers, relations and backgrounds, each with several wordings."""

from collections.abc import Mapping, Sequence
from random import Random

from .claims import Description
from .world import BACKGROUNDS, COLORS, SHAPES

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
PART_WORDS = {
    "solid": ("solid", "filled", "that is filled"),
    "outlined": ("outlined", "hollow", "drawn as an outline"),
    "striped": ("striped", "striped", "with stripes"),
}
"""Two words that come before a noun, and one that comes after it."""

RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "lower than"),
    "touching": ("touching", "pressed against", "leaning against", "in contact with"),
    "inside": ("inside", "within", "enclosed by", "surrounded by"),
}

_JOINING = {"of", "to", "the", "on", "in", "by", "than", "against", "with", "that", "is", "as", "an"}
"""Words of the phrases above that mean nothing by themselves."""

_OPENERS = ("", "", "", "a picture of ", "an image of ", "a photo of ", "a drawing of ", "there is ", "we see ")


def _words_of(phrases: Mapping[str, Sequence[str]]) -> set[str]:
    return {word for wordings in phrases.values() for phrase in wordings for word in phrase.split()} - _JOINING


def plural(word: str) -> str:
    """The plural of a noun."""
    return word + ("es" if word.endswith("s") else "s")


def _often_first(rng: Random, words: Sequence[str]) -> str:
    return rng.choice((words[0], words[0], words[1]))


def noun(rng: Random, described: Description, number: int = 1) -> str:
    """The words for `described` without article or number, in the plural unless `number` is 1."""
    shape = described.shape or rng.choice(("object", "shape"))
    words = (
        _often_first(rng, SIZE_WORDS[described.size]) if described.size else None,
        _often_first(rng, PART_WORDS[described.part]) if described.part else None,
        described.color,
        shape if number == 1 else plural(shape),
    )
    return " ".join(word for word in words if word)


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def thing(rng: Random, described: Description) -> str:
    """One object of `described`, such as "a small red circle"."""
    return with_article(noun(rng, described))


def things(rng: Random, described: Description, number: int) -> str:
    """`number` objects of `described`, such as "two red circles" or "2 red circles"."""
    if number == 1 and rng.random() < 0.5:
        return thing(rng, described)
    numeral = str(number) if number > 1 and rng.random() < 0.15 else NUMBERS[number]
    return f"{numeral} {noun(rng, described, number)}"


def listed(phrases: Sequence[str]) -> str:
    """The phrases joined by commas and a last "and"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def opened(rng: Random, phrase: str, number: int) -> str:
    """`phrase` after an opener such as "a picture of" or, for `number` things, "there are"; or after none."""
    opener = rng.choice(_OPENERS)
    return ("there are " if number > 1 and opener == "there is " else opener) + phrase


def on_background(rng: Random, phrase: str, background: str) -> str:
    """`phrase` with the background named after it."""
    return f"{phrase} {rng.choice(('on', 'on', 'against', 'in front of'))} {with_article(f'{background} background')}"


WORD_KINDS: dict[str, frozenset[str]] = {
    "color": frozenset(COLORS),
    "shape": frozenset(word for shape in (*SHAPES, "object", "shape") for word in (shape, plural(shape))),
    "number": frozenset((*NUMBERS[1:], *map(str, range(len(NUMBERS))))),
    "relation": frozenset(_words_of(RELATION_WORDS)),
    "size": frozenset((*_words_of(SIZE_WORDS), "smaller", "larger")),
    "part": frozenset(_words_of(PART_WORDS)),
    "background": frozenset((*BACKGROUNDS, "background")),
}
"""Words of captions by what they tell."""

FUNCTION_WORD = "function word"


def kind_of_word(word: str) -> str:
    """The kind of a caption's word, a name of `WORD_KINDS`; whatever is in none of them is a function word."""
    return next((kind for kind, words in WORD_KINDS.items() if word.lower() in words), FUNCTION_WORD)
