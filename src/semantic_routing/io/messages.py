"""Values in error messages, whatever their size."""

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
