"""Importing large libraries quickly."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Pauses the search for unreachable objects while libraries are imported.

    Imports make hundreds of thousands of objects that stay. Looking through them again and again takes a sixth of the
    time; so they are set aside for good when all are there.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
