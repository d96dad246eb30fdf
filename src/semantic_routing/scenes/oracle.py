"""Claims as tokens of ids: what an arm reads that needs no language model, because nothing is left to understand."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .claims import CLAIMS, VALUES, Background, Claim, Compare, Count, Description, Every, Ordinal, Related
from .geometry import RELATIONS
from .world import BACKGROUNDS, MAX_OBJECTS

ORACLE_FIELDS: dict[str, tuple[str, ...]] = {
    "claim": tuple(CLAIMS),
    "number": tuple(map(str, range(MAX_OBJECTS + 1))),
    "relation": (*RELATIONS, "more", "equal"),
    "background": tuple(BACKGROUNDS),
    **VALUES,
    **{f"other_{name}": values for name, values in VALUES.items()},
}
"""The fields of a token and their values. Id 0 of a field says nothing, and id i its value number i, counted from 1."""


def _described(description: Description, prefix: str = "") -> dict[str, str]:
    return {prefix + name: value for name, value in vars(description).items() if value}


def _said(claim: Claim) -> dict[str, str]:
    match claim:
        case Count(description, number):
            return {"number": str(number), **_described(description)}
        case Background(name):
            return {"background": name}
        case Related(relation, first, second) | Compare(first, relation, second):
            return {"relation": relation, **_described(first), **_described(second, "other_")}
        case Every(description, quality):
            return {**_described(description), **_described(quality, "other_")}
        case Ordinal(number, side, description):
            return {"number": str(number), "relation": side, **_described(description)}
    raise ValueError(f"Claim is {claim!r}, but must be one of {', '.join(CLAIMS)}.")


SEPARATOR = "; "
Wording = Literal["sentence", "claims"]
"""How a caption says its claims: as a sentence, or one after the other, which leaves nothing to understand."""


def claims_wording(claims: Sequence[Claim]) -> str:
    """The claims one after the other; an oracle's tokenizer makes a token of each."""
    return SEPARATOR.join(map(str, claims))


def worded(wording: Wording, caption: str, claims: Sequence[Claim]) -> str:
    """What is said of a scene: its caption, or the caption's claims."""
    return caption if wording == "sentence" else claims_wording(claims)


def oracle_tokens(claims: Sequence[Claim]) -> NDArray[np.int64]:
    """The claims as an array (tokens, fields) of ids, a token a claim, with the fields of `ORACLE_FIELDS`.

    A count is an object with its number; a relation names its side and both of its objects.
    """
    tokens = np.zeros((len(claims), len(ORACLE_FIELDS)), np.int64)
    for token, claim in zip(tokens, claims, strict=True):
        said = {"claim": type(claim).__name__, **_said(claim)}
        token[:] = [values.index(said[name]) + 1 if name in said else 0 for name, values in ORACLE_FIELDS.items()]
    return tokens
