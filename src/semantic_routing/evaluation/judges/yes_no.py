"""From the alternatives for a judge's first token to P(yes), by several definitions."""

import math
from collections.abc import Sequence

YES_KINDS = ("yes_prob", "normalized", "first_match", "exact_yes")
"""Sum over spellings of yes; its share of yes and no; t2v_metrics' rule of November 2025; the token "Yes" alone."""


def is_yes(token: str) -> bool:
    """Whether a token is a spelling of yes."""
    return token.strip().lower() == "yes"


def is_no(token: str) -> bool:
    """Whether a token is a spelling of no."""
    return token.strip().lower() == "no"


def yes_scores(alternatives: Sequence[tuple[str, float]]) -> dict[str, float] | None:
    """The scores by `YES_KINDS`, each from 0 to 1; None if neither yes nor no is listed: nothing is known then.

    Args:
        alternatives: tokens with their natural log-probabilities, in any order.

    Raises:
        ValueError: a log-probability is not a number, or the probabilities add up to more than 1.
    """
    # Whatever is far above 0 is no logarithm of a probability; its exponential would overflow.
    listed = [(token, math.exp(min(value, 1.0))) for token, value in alternatives]
    total = math.fsum(p for _, p in listed)
    # A little more than 1 is rounding: endpoints send six digits or fewer.
    if not total <= 1.01:
        raise ValueError(f"The first token's probabilities add up to {total:.4f}, more than 1.")
    yes = math.fsum(p for token, p in listed if is_yes(token))
    no = math.fsum(p for token, p in listed if is_no(token))
    if not any(is_yes(token) or is_no(token) for token, _ in listed):
        return None
    first, p = max(((token, p) for token, p in listed if is_yes(token) or is_no(token)), key=lambda pair: pair[1])
    return {
        "yes_prob": min(yes, 1.0),
        "normalized": yes / (yes + no) if yes + no > 0 else 0.0,
        "first_match": p if is_yes(first) else 1 - p,
        "exact_yes": min(math.fsum(p for token, p in listed if token == "Yes"), 1.0),
    }
