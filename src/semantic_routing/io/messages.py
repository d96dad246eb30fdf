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


class StoppedError(RuntimeError):
    """Work that had to stop, by no mistake of the user's; the message is all that the user needs."""


NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""In the words of torch's allocators, and of data workers that pass them on."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that the machine or its device has not enough memory."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in NO_MEMORY)
    )


def sentence_of(error: Exception) -> str:
    """What a user reads of an error: its first line, or its name where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
