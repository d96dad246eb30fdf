"""Counts what could not be read."""

import logging
from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)


class BrokenExamples:
    """Names each broken example in the log once, and stops at too many of them.

    Args:
        total: examples of the data set; None for an endless one, which has no limit.
        limit: share of them that may be broken.
        left_out: broken ones that the data set does not count among its own.

    Raises:
        ValueError: too many were left out.
    """

    def __init__(self, total: int | None, limit: float, left_out: Sequence[str] = ()) -> None:
        self.total = None if total is None else total + len(left_out)
        self.limit = limit
        self.names: set[str] = set()
        self.count(left_out)

    def count(self, names: Iterable[str]) -> None:
        """Adds examples. Raises ValueError past the limit."""
        for name in names:
            if name not in self.names:
                logger.warning("Skipped a broken example: %s", name)
                self.names.add(name)
        if self.total is not None and len(self.names) > self.limit * self.total:
            raise ValueError(
                f"{len(self.names)} of {self.total} examples are broken, more than data.max_broken "
                f"{self.limit:.2%}: {'; '.join(sorted(self.names)[:5])}"
            )

    def report(self) -> None:
        """Lists them in the log."""
        if self.names:
            logger.warning("%d broken examples were skipped: %s", len(self.names), "; ".join(sorted(self.names)[:20]))
