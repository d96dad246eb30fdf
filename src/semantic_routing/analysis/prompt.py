"""For one prompt: which tokens each block attends to, beside which layers it reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import Drawing, heat_map, label_cells, panels
from .base import FINE_TIMES, Analysis, Subject, routed
from .sampling import sample_trajectory

if TYPE_CHECKING:
    from ..models.attention import CrossAttention, KeyValue
    from ..models.tokens import TextTokens

MOST_TOKENS = 40


class Prompt(Analysis):
    """Cross-attention over the tokens of the first prompt."""

    name = "prompt"
    title = "What each block attends to"
    needs = "sampling"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Models whose blocks cross-attend to a router's context."""
        return routed(strategy)

    def compute(self, subject: Subject) -> Arrays:
        """`attention` over flow_time, block and token, a mean over heads and image tokens; and the fusion weights."""
        pipeline, options = subject.pipeline, subject.options
        prompt = subject.prompts[0]
        with record_attention(pipeline.transformer) as seen:
            times, _ = sample_trajectory(pipeline, [prompt], subject.noise[:1], options.steps, options.guidance)
        # The prompt's row is the last one of each call: guidance puts the unconditional row first.
        calls = torch.stack([weights[-1] for weights in seen]).double().cpu().numpy()
        blocks = len(pipeline.transformer.blocks)
        tokens = token_texts(pipeline.prompt_encoder, prompt)
        attention = calls.reshape(-1, blocks, calls.shape[-1])[..., : len(tokens)]
        axes = {"flow_time": times[:-1].round(6).tolist(), "block": range(blocks), "token": tokens}
        return {"attention": NamedArray(attention, axes), "weights": subject.weights(FINE_TIMES)}

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """The prompt, and the most attended token of each block."""
        mean = arrays["attention"].values.mean(0)
        tokens = arrays["attention"].axes["token"]
        most = [
            f"block {block}: {str(tokens[int(row.argmax())]).partition(': ')[2]} ({row.max():.2f})"
            for block, row in enumerate(mean)
        ]
        return [f"Prompt: “{subject.prompts[0]}”.", f"Most attended, on average over time: {'; '.join(most)}."]

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """Attention over tokens on the left, fusion weights over layers on the right, a row a block."""
        attention, weights = arrays["attention"], arrays["weights"]
        tokens = attention.axes["token"][:MOST_TOKENS]
        mean = attention.values.mean(0)[:, :MOST_TOKENS]
        layers = weights.axes["layer"]
        averaged = tuple(number for number, axis in enumerate(weights.axes) if axis not in ("block", "layer"))
        read = np.broadcast_to(weights.values.mean(averaged), (len(mean), len(layers)))
        figure, axes = panels(1, 2, 3.4, 3.0, gridspec_kw={"width_ratios": [2, 1]}, sharey=True)
        left = heat_map(axes[0], mean, 0.0, float(mean.max()))
        right = heat_map(axes[1], read, 0.0, float(read.max()), "cividis")
        axes[0].set_xticks(range(len(tokens)), [str(token) for token in tokens], rotation=60, ha="right", fontsize=6)
        axes[0].set_xlabel("token")
        axes[0].set_ylabel("DiT block")
        label_cells(axes[0], "y", list(range(len(mean))))
        label_cells(axes[1], "x", layers, 9)
        axes[1].set_xlabel("language-model layer")
        figure.colorbar(left, ax=axes[0], label="attention", location="top", shrink=0.6)
        figure.colorbar(right, ax=axes[1], label="fusion weight", location="top", shrink=0.8)
        caption = (
            f"Cross-attention of each block to the tokens of “{subject.prompts[0]}” (left; mean over heads, image "
            "tokens and sampling steps), beside the language-model layers that the block reads (right"
            f"{'; mean over time' if averaged else ''})."
        )
        if len(attention.axes["token"]) > MOST_TOKENS:
            caption += f" The first {MOST_TOKENS} of {len(attention.axes['token'])} tokens are shown."
        return [Drawing("prompt", figure, caption)]


def token_texts(encoder: Any, prompt: str) -> list[str]:
    """The tokens of a prompt as its tokenizer writes them, numbered so that equal ones stay apart."""
    ids = encoder.tokenize([prompt])[0][0].tolist()
    return [f"{number}: {text}" for number, text in enumerate(encoder.tokenizer.convert_ids_to_tokens(ids))]


@contextmanager
def record_attention(transformer: Any) -> Iterator[list[Float[Tensor, "batch text_tokens"]]]:
    """Collects, call by call and block by block, what each cross-attention attends to."""
    seen: list[Tensor] = []

    def keep(module: "CrossAttention", inputs: "tuple[Tensor, Tensor | KeyValue, TextTokens]") -> None:
        seen.append(attention_weights(module, *inputs))

    hooks = [block.cross_attention.register_forward_pre_hook(keep) for block in transformer.blocks]
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
