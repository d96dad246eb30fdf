"""What a fusion is: hidden states of all language-model layers in, the context of every block out."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..io.registry import Registry

NUM_TRAIN_TIMESTEPS = 1000

VARIATIONS = frozenset({"block", "token", "timestep", "state", "role", "head"})


class FusionSizes(NamedTuple):
    """What a fusion is built for; a size that nobody knows is None.

    Args:
        num_layers: language-model layers in the hidden states.
        num_blocks: blocks of the diffusion model.
        text_channels: width of the hidden states.
        state_channels: width of a block's state, the image tokens' mean.
        num_heads: key/value heads of a block's cross-attention.
    """

    num_layers: int
    num_blocks: int
    text_channels: int | None = None
    state_channels: int | None = None
    num_heads: int | None = None


class Readers(NamedTuple):
    """How many contexts a block reads: one for each of its roles, times one for each of its heads.

    Args:
        roles: 2 where keys and values read different contexts, keys first; else 1.
        heads: the number of key/value heads where each reads its own context; else 1.
    """

    roles: int = 1
    heads: int = 1


class Moment(NamedTuple):
    """What may be known at a step of the diffusion.

    Args:
        timestep: in [0, 1000], where 1000 is noise; one a row, or one for all rows.
        state: of fusions that vary with the state: the mean of the block's normalized image tokens.
        block: of fusions that vary with the state: the block whose context is wanted, counted from 0.
    """

    timestep: Float[Tensor, " #batch"]
    state: Float[Tensor, "batch state_channels"] | None = None
    block: int | None = None


class Prepared(NamedTuple):
    """What depends on the prompts alone.

    Args:
        features: the hidden states, or what `prepare` made of them.
        mask: true for real tokens; None where all are.
        normalized: whether the features are normalized already.
        blank: rows that had no real token at all; None where there is none. All their positions count as real.
        gains: factors of layers, one row for all blocks or one a block, see `fusion.gains`; None where all are 1.
        scale: how far the weights of a convex mixture lie from the plain mean of layers, see `fusion.check_scale`.
    """

    features: Float[Tensor, "batch layers text_tokens text_channels"]
    mask: Bool[Tensor, "batch text_tokens"] | None
    normalized: bool = False
    blank: Bool[Tensor, " batch"] | None = None
    gains: Float[Tensor, "blocks layers"] | None = None
    scale: float = 1.0

    def rows(self, index: Int[Tensor, " rows"]) -> "Prepared":
        """The prompts at `index`, which may repeat."""
        mask, blank = (None if tensor is None else tensor[index] for tensor in (self.mask, self.blank))
        return self._replace(features=self.features[index], mask=mask, blank=blank)


class TextFusion(nn.Module):
    """Turns the hidden states of a language model's layers into the context that each block reads.

    A subclass says what its context varies with, and implements `forward`. Whoever uses it asks `varies_with`: a
    context that varies with neither timestep nor state is made once a prompt.

    Args:
        sizes: what it is built for.

    Raises:
        ValueError: there is no layer or no block.
    """

    varies_with: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__()
        if sizes.num_layers < 1 or sizes.num_blocks < 1:
            raise ValueError(
                f"A fusion needs at least 1 layer and 1 block, not {sizes.num_layers} and {sizes.num_blocks}."
            )
        self.sizes = sizes

    @property
    def out_channels(self) -> int:
        """Width of the context; that of the hidden states unless a subclass says otherwise."""
        if self.sizes.text_channels is None:
            raise ValueError(f"{type(self).__name__} was built without text_channels, so its width is not known.")
        return self.sizes.text_channels

    @property
    def state_channels(self) -> int:
        """Width of a block's state."""
        if self.sizes.state_channels is None:
            raise ValueError(f"{type(self).__name__} was built without state_channels, and reads a block's state.")
        return self.sizes.state_channels

    @staticmethod
    def state_of(moment: Moment) -> tuple[Float[Tensor, "batch state_channels"], int]:
        """The state that a fusion which reads the image is given, in float32, and the block that it is of."""
        if moment.state is None or moment.block is None:
            raise ValueError("A fusion that reads the image needs a block's state and its number; one of them is None.")
        return moment.state.float(), moment.block

    @property
    def readers(self) -> Readers:
        """How many contexts each block reads: several where they differ by role or by head."""
        heads = self.sizes.num_heads if "head" in self.varies_with else 1
        if heads is None:
            raise ValueError(f"{type(self).__name__} was built without num_heads, and makes a context for each head.")
        return Readers(2 if "role" in self.varies_with else 1, heads)

    @classmethod
    def layers_read(cls, num_layers: int, num_blocks: int, **options: Any) -> list[int]:
        """Which of `num_layers` layers can reach a block: the others need not be computed."""
        return list(range(num_layers))

    def prepare(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        mask: Tensor | None = None,
        reused: bool = False,
    ) -> Prepared:
        """Does what depends on the prompts alone, and cuts padding to the longest prompt.

        Args:
            hidden_states: features of `sizes.num_layers` layers, shallow first.
            mask: `batch text_tokens` of any type, 1 or true for real tokens. A row without any reads all its positions
                evenly, as the reference does. Without a mask all tokens are real.
            reused: the result serves many moments, so what they share is computed now.

        Raises:
            ValueError: another number of layers, or a mask with other values than 0 and 1.
        """
        if hidden_states.shape[1] != self.sizes.num_layers:
            raise ValueError(
                f"The fusion was built for {self.sizes.num_layers} layers and got {hidden_states.shape[1]}."
            )
        if mask is None:
            return Prepared(hidden_states, None)
        mask = as_bool(mask)
        blank = ~mask.any(dim=1)
        mask = mask | blank[:, None]
        length = int(mask.any(dim=0).nonzero().max()) + 1
        return Prepared(hidden_states[:, :, :length], mask[:, :length], blank=blank if bool(blank.any()) else None)

    def forward(self, prepared: Prepared, moment: Moment) -> Float[Tensor, "blocks batch text_tokens out_channels"]:
        """The context of all blocks, or of `moment.block` alone; `blocks` is 1 where it is the same for all.

        Where a block has several readers, the first axis lists the contexts of all its roles and heads, then those of
        the next block: `(block role head)`. Of `prepared.gains` there is a single row here.
        """
        raise NotImplementedError

    def layer_weights(
        self, prepared: Prepared | None, moment: Moment
    ) -> Float[Tensor, "blocks #batch #text_tokens layers"] | None:
        """How much of each layer is read, for diagnosis; None where no such numbers exist.

        The first axis is the context's. Axes that the weights do not vary with have length 1. Without variation by
        token and state, `prepared` may be None.
        """
        return None

    def auxiliary_loss(self) -> Float[Tensor, " batch"] | None:
        """What the last forward pass with gradients adds to each example's loss, once; None for nothing."""
        return None

    def keep_layers(self, indices: Sequence[int]) -> "TextFusion":
        """A fusion that reads only the layers at `indices`, with the weights of this one.

        Raises:
            ValueError: this fusion does not say how.
        """
        raise ValueError(f"{type(self).__name__} cannot drop layers: it has no keep_layers.")


FUSIONS: Registry[type[TextFusion]] = Registry("fusion strategy")


def make_fusion(strategy: str, kind: type[TextFusion], sizes: FusionSizes, options: Mapping[str, object]) -> TextFusion:
    """A fusion of class `kind`, which is registered as `strategy`.

    Raises:
        ValueError: it does not take one of the options, or lacks one; the message names it.
    """
    try:
        inspect.signature(kind).bind(sizes, **options)
    except TypeError as error:
        raise ValueError(f"Fusion strategy {strategy!r} and its options do not go together: {error}.") from error
    return kind(sizes, **options)


def as_bool(mask: Tensor) -> Bool[Tensor, "batch text_tokens"]:
    """A mask as tokenizers return it, of any type, as booleans.

    Raises:
        ValueError: there are other values than 0 and 1, as in a mask that is added to scores.
    """
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"A mask holds 1 for real tokens and 0 for padding, but this one holds {float(mask.min()):g}.")
    return mask == 1


def check_fusion(fusion: TextFusion, name: str) -> None:
    """Runs a fusion once on two tiny prompts and compares what comes out with what `varies_with` says.

    Raises:
        ValueError: the two contradict each other; the message names the shapes.
    """
    unknown = fusion.varies_with - VARIATIONS
    if unknown:
        known = ", ".join(sorted(VARIATIONS))
        raise ValueError(f"Fusion strategy {name!r} varies with {sorted(unknown)[0]!r}: expected some of {known}.")
    sizes, readers = fusion.sizes, fusion.readers
    reads_state = "state" in fusion.varies_with
    if sizes.text_channels is None or (reads_state and sizes.state_channels is None):
        return
    device = next((parameter.device for parameter in fusion.parameters()), torch.device("cpu"))
    if device.type == "meta":  # autocast, which gates turn off, is not to be had there
        return
    hidden_states = torch.ones(2, sizes.num_layers, 3, sizes.text_channels, device=device)
    state = torch.ones(2, sizes.state_channels or 0, device=device) if reads_state else None
    moment = Moment(torch.full((2,), 500.0, device=device), state, 0 if reads_state else None)
    with torch.no_grad():
        context = fusion(fusion.prepare(hidden_states), moment)
    blocks = sizes.num_blocks if "block" in fusion.varies_with and not reads_state else 1
    wanted = (blocks * readers.roles * readers.heads, 2, 3, fusion.out_channels)
    if tuple(context.shape) != wanted:
        raise ValueError(
            f"Fusion strategy {name!r} says that it varies with {sorted(fusion.varies_with) or 'nothing'}, so for 2 "
            f"prompts of 3 tokens its context must have shape {wanted}, not {tuple(context.shape)}."
        )
