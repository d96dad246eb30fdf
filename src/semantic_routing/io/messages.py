"""Values and other libraries' errors in error messages, whatever their size, and what a user is told of a mistake."""

import json
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 120  # characters of a value in a message

_REPR = reprlib.Repr()
_REPR.maxstring = LONGEST
_REPR.maxother = LONGEST
_REPR.maxlong = 40


def brief(value: object) -> str:
    """`repr(value)`, shortened in its middle and cut after `LONGEST` characters."""
    text = _REPR.repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


@contextmanager
def one_sentence(name: object) -> Iterator[None]:
    """For libraries that raise about anything on damaged files: one sentence that says which file or folder it was.

    Args:
        name: of what is read.

    Raises:
        ValueError: whatever went wrong, unless it is a ValueError or OSError already.
    """
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # these name no file
        raise ValueError(f"{name} is damaged: {error}.") from error
    except (ValueError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[: 2 * LONGEST]
        raise ValueError(f"{name} cannot be read: {type(error).__name__}: {reason}") from error


def sentence_of(error: Exception) -> str:
    """What a user reads of an error: its first line, or its name where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
