"""For one prompt: which tokens each block attends to, beside which layers it reads."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..fusion import Moment, Prepared, TextFusion
from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import Figure, heat_map, label_cells, panels
from .base import ANALYSES, Analysis
from .layer_weights import mean_over_readers, watching
from .model import SavedModel
from .weights import SCALE, weight_bar, weight_map

MOST_TOKENS = 40


@ANALYSES.register("prompt")
class Prompt(Analysis):
    """Cross-attention over the tokens of the first prompt, and the layers that are read for it."""

    title = "What each block attends to"
    needs = "a fusion, and blocks with a cross-attention of their own to watch"
    samples = True

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models whose blocks cross-attend to a fusion's context."""
        return model.fusion is not None and model.shows_attention

    def compute(self, model: SavedModel) -> Arrays:
        """`attention` over flow_time, block and token, a mean over heads and image tokens; and what belongs to it.

        `attention_of_words` is the same without special tokens, renormalized, where there are any. `weights` and, where
        tokens differ, `weights_by_token` are means over sampling steps, where the fusion has layer weights.
        """
        prompt = model.prompts[0]
        tokens, words = model.tokens(prompt)
        with record_weights(model.running_fusion) as weights:
            attended = model.attend(prompt)
        attention = attended.attention[..., : len(tokens)]
        blocks = attention.shape[1]
        along: dict[str, Coordinates] = {"flow_time": attended.flow_times.round(6).tolist(), "block": range(blocks)}
        arrays = {"attention": NamedArray(attention, {**along, "token": tokens})}
        if 0 < len(words) < len(tokens):
            of_words = attention[..., words]
            of_words /= of_words.sum(-1, keepdims=True)
            arrays["attention_of_words"] = NamedArray(of_words, {**along, "token": [tokens[word] for word in words]})
        return arrays | _weight_arrays(weights, blocks, tokens, model.layers)

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """The prompt, and the most attended token of each block."""
        texts = [f"Prompt: “{model.prompts[0]}”."]
        for name, array in _attentions(arrays).items():
            mean, tokens = array.values.mean(0), array.axes["token"]
            most = [
                f"block {block}: {str(tokens[int(row.argmax())]).partition(': ')[2]} ({row.max():.2f})"
                for block, row in enumerate(mean)
            ]
            texts.append(f"Most attended of {name}, on average over time: {'; '.join(most)}.")
        return texts

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """Attention over tokens beside fusion weights over layers, a row a block; and weights by token."""
        maps = _attentions(arrays)
        weights = arrays.get("weights")
        columns = len(maps) + (weights is not None)
        ratios = [2] * len(maps) + [1] * (weights is not None)
        canvas, axes = panels(1, columns, 3.4, width_ratios=ratios, sharey=True)
        for place, (name, array) in zip(axes, maps.items(), strict=False):
            mean = array.values.mean(0)[:, :MOST_TOKENS]
            cells = heat_map(place, mean, 0.0, float(mean.max()))
            _label_tokens(place, array.axes["token"][:MOST_TOKENS])
            canvas.colorbar(cells, ax=place, label=f"attention to {name}", location="top", shrink=0.8)
        if weights is not None:
            cells = weight_map(axes[-1], weights.values)
            label_cells(axes[-1], "x", weights.axes["layer"], 9)
            axes[-1].set_xlabel("language-model layer")
            weight_bar(canvas, [axes[-1]], cells, len(weights.axes["layer"]), location="top", shrink=0.9)
        axes[0].set_ylabel("DiT block")
        label_cells(axes[0], "y", arrays["attention"].axes["block"])
        caption = (
            f"Cross-attention of each block to the tokens of “{model.prompts[0]}” (mean over heads, image tokens and "
            "sampling steps)"
        )
        caption += ", with special tokens and without them" if len(maps) > 1 else ""
        caption += f", beside the language-model layers that it reads. {SCALE}" if weights is not None else "."
        count = len(arrays["attention"].axes["token"])
        caption += f" The first {MOST_TOKENS} of {count} tokens are shown." if count > MOST_TOKENS else ""
        figures = [Figure("prompt", canvas, caption)]
        if "weights_by_token" in arrays:
            figures.append(_draw_by_token(arrays["weights_by_token"]))
        return figures


def _attentions(arrays: Arrays) -> dict[str, NamedArray]:
    names = {"all tokens": "attention", "words": "attention_of_words"}
    return {label: arrays[name] for label, name in names.items() if name in arrays}


def _weight_arrays(
    weights: dict[int, list[NDArray[np.float64]]], blocks: int, tokens: list[str], layers: list[int]
) -> Arrays:
    if not weights:
        return {}
    means = np.stack([np.mean(calls, axis=0) for _, calls in sorted(weights.items())])
    means = means.reshape(-1, *means.shape[-2:])[:, : len(tokens)]
    by_block = np.broadcast_to(means.mean(1), (blocks, len(layers)))
    arrays = {"weights": NamedArray(by_block, {"block": range(blocks), "layer": layers})}
    if means.shape[1] > 1:
        arrays["weights_by_token"] = NamedArray(means.mean(0), {"token": tokens, "layer": layers})
    return arrays


def _draw_by_token(weights: NamedArray) -> Figure:
    tokens = weights.axes["token"][:MOST_TOKENS]
    canvas, (axes,) = panels(1, 1, 1.2 + 0.14 * len(tokens))
    cells = weight_map(axes, weights.values[: len(tokens)])
    label_cells(axes, "y", tokens, MOST_TOKENS)
    label_cells(axes, "x", weights.axes["layer"])
    axes.invert_yaxis()
    axes.set_xlabel("language-model layer")
    weight_bar(canvas, [axes], cells, len(weights.axes["layer"]))
    return Figure("layers-by-token", canvas, f"Layers read for each token, a mean over blocks and steps. {SCALE}")


def _label_tokens(axes: Axes, tokens: Coordinates) -> None:
    texts = [str(token).partition(": ")[2] for token in tokens]
    axes.set_xticks(range(len(texts)), texts, rotation=60, ha="right", fontsize=6)
    axes.set_xlabel("token")


@contextmanager
def record_weights(fusion: TextFusion) -> Iterator[dict[int, list[Float[np.ndarray, "blocks text_tokens layers"]]]]:
    """Collects the layer weights of the last row of each call, by the block that it was for (0 for all at once)."""
    seen: dict[int, list[NDArray[np.float64]]] = defaultdict(list)

    def keep(prepared: Prepared, moment: Moment) -> None:
        weights = fusion.layer_weights(prepared, moment)
        if weights is not None:
            by_block = mean_over_readers(fusion, weights[:, -1])
            seen[moment.block or 0].append(by_block.double().cpu().numpy())

    with watching(fusion, keep):
        yield seen
