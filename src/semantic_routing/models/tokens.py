"""Text without its padding: what acts on one token at a time is computed for real tokens alone."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class TextTokens(NamedTuple):
    """Where the real text tokens of a padded batch are.

    `mask` and `places` are None where all tokens are real. `blank` marks rows that had no real token, all of whose
    positions are attended to evenly; it is None where there is no such row.
    """

    batch: int
    length: int
    mask: Bool[Tensor, "batch 1 1 text_tokens"] | None
    places: Int[Tensor, " real_tokens"] | None
    blank: Bool[Tensor, " batch"] | None = None

    @classmethod
    def of(
        cls,
        mask: Bool[Tensor, "batch text_tokens"] | None,
        batch: int,
        length: int,
        blank: Bool[Tensor, " batch"] | None = None,
    ) -> "TextTokens":
        """From a mask that is true for real tokens."""
        if mask is None:
            return cls(batch, length, None, None)
        return cls(batch, length, mask[:, None, None], mask.flatten().nonzero()[:, 0], blank)

    def pack(
        self, padded: Float[Tensor, "blocks batch text_tokens channels"]
    ) -> Float[Tensor, "blocks real_tokens channels"]:
        """The real tokens of all rows, one after the other."""
        packed = padded.flatten(1, 2)
        return packed if self.places is None else packed.index_select(1, self.places)

    def pad(
        self, packed: Float[Tensor, "real_tokens heads channels"]
    ) -> Float[Tensor, "batch text_tokens heads channels"]:
        """Tokens back in their rows, zeros elsewhere."""
        if self.places is not None:
            padded = packed.new_zeros(self.batch * self.length, *packed.shape[1:])
            packed = padded.index_copy(0, self.places, packed)
        return packed.view(self.batch, self.length, *packed.shape[1:])
