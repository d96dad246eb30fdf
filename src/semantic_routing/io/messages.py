"""What a user is told of a mistake."""

import reprlib

LONGEST = 120  # characters of a value in a message

_REPR = reprlib.Repr()
_REPR.maxstring = LONGEST
_REPR.maxother = LONGEST
_REPR.maxlong = 40


def brief(value: object) -> str:
    """`repr(value)`, shortened in its middle and cut after `LONGEST` characters."""
    text = _REPR.repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def sentence_of(error: Exception) -> str:
    """What a user reads of an error: its first line, or its name where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
