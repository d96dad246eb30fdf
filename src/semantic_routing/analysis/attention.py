"""What blocks attend to, token by token: of our own model, and of hosts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..models.attention import CrossAttention, KeyValue
    from ..models.tokens import TextTokens
    from ..models.transformer import SemanticRoutingTransformer2DModel


class Tokens(NamedTuple):
    """Tokens as their tokenizer writes them, numbered so that equal ones stay apart, and the positions of words.

    Words are the tokens that the tokenizer does not call special, such as [CLS].
    """

    texts: list[str]
    words: list[int]

    @classmethod
    def of(cls, tokenizer: Any, ids: Sequence[int]) -> "Tokens":
        """Of token numbers."""
        texts = [f"{number}: {text}" for number, text in enumerate(tokenizer.convert_ids_to_tokens(ids))]
        return cls(texts, [number for number, token in enumerate(ids) if token not in tokenizer.all_special_ids])


class Attended(NamedTuple):
    """What blocks attended to while an image of one prompt was made, a mean over heads and image tokens."""

    flow_times: Float[np.ndarray, " times"]
    attention: Float[np.ndarray, "times blocks text_tokens"]


@contextmanager
def record_attention(
    transformer: "SemanticRoutingTransformer2DModel",
) -> Iterator[list[Float[Tensor, "batch text_tokens"]]]:
    """Collects, call by call and block by block, what each cross-attention attends to."""
    seen: list[Tensor] = []

    def keep(module: "CrossAttention", inputs: "tuple[Tensor, Tensor | KeyValue, TextTokens]") -> None:
        seen.append(attention_weights(module, *inputs))

    hooks = [block.get_submodule("cross_attention").register_forward_pre_hook(keep) for block in transformer.blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(
    module: "CrossAttention", x: Tensor, text: "Tensor | KeyValue", tokens: "TextTokens"
) -> Float[Tensor, "batch text_tokens"]:
    """Softmax weights over text tokens, a mean over heads and image tokens, in float32."""
    query = module.query(x).float()
    key = (module.text_key_value(text, tokens) if isinstance(text, Tensor) else text).key.float()
    key = repeat(key, "b n g c -> b n (g r) c", r=query.shape[2] // key.shape[2])
    scores = torch.einsum("bihc,bjhc->bhij", query, key) / query.shape[-1] ** 0.5
    if tokens.mask is not None:
        scores = scores.masked_fill(~tokens.mask, -torch.inf)
    return rearrange(scores.softmax(-1), "b h i j -> b (h i) j").mean(1)


@contextmanager
def record_host_attention(blocks: Sequence[Any]) -> Iterator[list[Float[Tensor, "batch text_tokens"]]]:
    """The same of the cross-attentions of a host, of diffusers' `Attention` and its like."""
    seen: list[Tensor] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = dict(zip(("hidden_states", "encoder_hidden_states", "attention_mask"), args, strict=False)) | kwargs
        mask = values.get("attention_mask")
        seen.append(host_attention_weights(module, values["hidden_states"], values["encoder_hidden_states"], mask))

    hooks = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def host_attention_weights(
    module: Any, x: Tensor, text: Tensor, mask: Tensor | None = None
) -> Float[Tensor, "batch text_tokens"]:
    """As `attention_weights`, of a module with `to_q`, `to_k` and `heads`, and perhaps norms of both.

    Args:
        module: the attention.
        x: image tokens.
        text: text tokens.
        mask: what is added to scores, or true for real tokens; `batch text_tokens` with any axes of length 1 between.
    """
    query = _by_head(module.to_q(x), module.heads, getattr(module, "norm_q", None))
    key = _by_head(module.to_k(text), module.heads, getattr(module, "norm_k", None))
    scores = torch.einsum("bhic,bhjc->bhij", query, key) / query.shape[-1] ** 0.5
    if mask is not None:
        mask = mask.reshape(len(mask), 1, 1, -1)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return rearrange(scores.softmax(-1), "b h i j -> b (h i) j").mean(1)


def _by_head(
    made: Float[Tensor, "batch tokens channels"], heads: int, norm: nn.Module | None
) -> Float[Tensor, "batch heads tokens head_channels"]:
    """Projected tokens by head, normalized: some norms are of a head, some of all heads together."""
    weight = getattr(norm, "weight", None)
    of_all = weight is not None and len(weight) == made.shape[-1]
    if norm is not None and of_all:
        made = norm(made)
    split = rearrange(made, "b n (h c) -> b h n c", h=heads)
    return (norm(split) if norm is not None and not of_all else split).float()
