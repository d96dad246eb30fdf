"""Which layers are read for which words, where the fusion weighs each token by itself."""

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..fusion import Moment, TextFusion
from ..reporting.arrays import Arrays, NamedArray
from ..reporting.figures import DASHES, OKABE_ITO, Figure, label_cells, panels
from ..reporting.table import Table
from .base import ANALYSES, Analysis
from .layer_weights import FINE_TIMES, mean_over_readers
from .model import SavedModel
from .statistics import center, layer_positions, normalized
from .weights import SCALE, weight_bar, weight_map

if TYPE_CHECKING:
    from ..text import TextEncoder, TextFeatures

MOST_WORDS = 40


@ANALYSES.register("words")
class Words(Analysis):
    """Layers by word for the first prompt, and by kind of word over prompts of scenes."""

    title = "Layers by word"
    needs = "layer weights that vary with the token and not with the image"
    hosts = False

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models whose weights differ from token to token, and are known before sampling."""
        return "token" in model.varies_with and "state" not in model.varies_with and model.weights is not None

    def compute(self, model: SavedModel) -> Arrays:
        """`by_word` over word and layer; of scenes' prompts `by_kind` over kind and layer, and the `count` of a kind.

        All are means over blocks, times and the tokens of a word; kinds are means over words.
        """
        from ..scenes.words import FUNCTION_WORD, WORD_KINDS, kind_of_word

        pipeline, prompts = model.pipeline, model.prompts
        features = pipeline.prompt_encoder(prompts).to(pipeline.transformer.device, pipeline.transformer.dtype)
        weights = token_weights(pipeline.transformer.fusion, features)
        rows = [
            [(word, row[places].mean(0)) for word, places in words_of(pipeline.prompt_encoder, prompt)]
            for prompt, row in zip(prompts, weights, strict=True)
        ]
        first = rows[0]
        names = [f"{number}: {word}" for number, (word, _) in enumerate(first)]
        by_word = np.array([values for _, values in first]).reshape(len(first), len(model.layers))
        arrays = {"by_word": NamedArray(by_word, {"word": names, "layer": model.layers})}
        if model.scene_prompts is None:
            return arrays
        kinds: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for word, values in (entry for row in rows for entry in row):
            kinds[kind_of_word(word)].append(values)
        found = [kind for kind in (*WORD_KINDS, FUNCTION_WORD) if kind in kinds]
        by_kind = np.array([np.mean(kinds[kind], axis=0) for kind in found])
        arrays["by_kind"] = NamedArray(by_kind, {"kind": found, "layer": model.layers})
        arrays["count"] = NamedArray(np.array([len(kinds[kind]) for kind in found]), {"kind": found})
        return arrays

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """The prompt."""
        return [f"Prompt: “{model.prompts[0]}”. Weights are means over blocks and over the tokens of a word."]

    def tables(self, arrays: Arrays, model: SavedModel) -> list[Table]:
        """Kinds of words: how many were seen, their depth, and the layer that gets most."""
        if "by_kind" not in arrays:
            return []
        by_kind, positions = arrays["by_kind"], layer_positions(model.layers)
        rows = []
        for kind in by_kind.axes["kind"]:
            weights = by_kind.at(kind=kind)
            depth = f"{float(center(normalized(weights), positions)):.3f}" if model.weight_axes else "–"
            most = by_kind.axes["layer"][int(weights.argmax())]
            rows.append([str(kind), f"{arrays['count'].at(kind=kind):.0f}", depth, f"{most} ({weights.max():.3f})"])
        caption = (
            f"Words of {len(model.prompts)} prompts by what they tell. The semantic center (eq. 16) is the mean depth "
            "that is read, 0 the shallowest layer and 1 the deepest."
        )
        return [Table(["kind", "words", "semantic center", "most weight"], rows, caption)]

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """Heat maps of words by layers and of kinds by layers, and curves of the latter."""
        text = f"Language-model layers read for each word of “{model.prompts[0]}”, a mean over blocks. {SCALE}"
        figures = [_draw_map(arrays["by_word"], "word", "by-word", text)]
        if "by_kind" in arrays:
            text = f"Layers read for each kind of word in {len(model.prompts)} prompts, a mean over blocks. {SCALE}"
            figures += [_draw_map(arrays["by_kind"], "kind", "by-kind", text), _draw_curves(arrays["by_kind"])]
        return figures


def _draw_map(weights: NamedArray, axis: str, name: str, caption: str) -> Figure:
    labels = [str(label).partition(": ")[2] or str(label) for label in weights.axes[axis][:MOST_WORDS]]
    canvas, (axes,) = panels(1, 1, 1.2 + 0.16 * len(labels))
    cells = weight_map(axes, weights.values[: len(labels)])
    label_cells(axes, "y", labels, MOST_WORDS)
    label_cells(axes, "x", weights.axes["layer"])
    axes.invert_yaxis()
    axes.set_xlabel("language-model layer")
    weight_bar(canvas, [axes], cells, len(weights.axes["layer"]))
    return Figure(name, canvas, caption)


def _draw_curves(weights: NamedArray) -> Figure:
    """Kinds against the mean of all: differences that the heat map's fixed scale may not show."""
    canvas, (axes,) = panels(1, 1, 2.8)
    mean = weights.values.mean(0)
    looks = zip(weights.axes["kind"], (*OKABE_ITO, "0.6"), (*DASHES, "-"), strict=False)  # as many as there are kinds
    for kind, color, dash in looks:
        values = weights.at(kind=kind) - mean
        axes.plot(weights.numbers("layer"), values, color=color, ls=dash, marker="o", ms=2, label=str(kind))
    axes.axhline(0, color="0.5", linewidth=0.7, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="language-model layer", ylabel="weight − mean over kinds")
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return Figure("kinds", canvas, "How the layers read for each kind of word differ from the mean over kinds.")


@torch.no_grad()
def token_weights(fusion: TextFusion, features: "TextFeatures") -> Float[np.ndarray, "prompts text_tokens layers"]:
    """Weights of each token, a mean over blocks, their readers and, where they vary with it, time."""
    prepared = fusion.prepare(*features)
    means = []
    for time in FINE_TIMES if "timestep" in fusion.varies_with else FINE_TIMES[:1]:
        timestep = torch.tensor([1000 * (1 - time)], dtype=torch.float32, device=features.hidden_states.device)
        weights = fusion.layer_weights(prepared, Moment(timestep))
        if weights is None:
            raise ValueError(f"{type(fusion).__name__} has no layer weights to show by word.")
        means.append(mean_over_readers(fusion, weights).mean(0))
    return torch.stack(means).mean(0).double().cpu().numpy()


def words_of(encoder: "TextEncoder", prompt: str) -> list[tuple[str, list[int]]]:
    """The words of a prompt, each with the places of its tokens; words that were cut off are left out."""
    mark = "\0"  # in place of a prompt, to find where it starts
    text, marked = encoder.texts([prompt, mark])
    start = marked.index(mark)
    special = {"add_special_tokens": not encoder.chat_template}
    spans = encoder.tokenizer(text, **special, return_offsets_mapping=True)["offset_mapping"][: encoder.max_length]
    found = []
    for match in re.finditer(r"[^\W_]+", prompt):
        first, last = start + match.start(), start + match.end()
        places = [place for place, (begin, end) in enumerate(spans) if begin < last and end > first]
        if places:
            found.append((match[0], places))
    return found
