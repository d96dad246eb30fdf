"""Routing as a knob: what becomes of images when a layer is dropped, doubled or heard alone while sampling."""

from collections.abc import Callable

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..fusion import LayerGains
from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import DASHES, OKABE_ITO, Figure, panels
from ..reporting.table import Table
from .base import ANALYSES, Analysis
from .model import SavedModel
from .pictures import draw_pictures, paired_change, share_correct

SETTINGS: dict[str, Callable[[int], LayerGains]] = {
    "dropped": lambda layer: {layer: 0.0},
    "doubled": lambda layer: {layer: 2.0},
    "alone": lambda layer: {"all": 0.0, layer: 1.0},
}
"""Gains that are set for each layer in turn, in all blocks."""

PICTURED = 8


@ANALYSES.register("knob")
class Knob(Analysis):
    """Samples with each layer dropped, doubled and alone."""

    title = "Layers as a knob while sampling"
    needs = "a fusion that reads two or more layers"
    samples = True

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models with a fusion that has layers to choose from."""
        return model.fusion is not None and len(model.layers) > 1

    def compute(self, model: SavedModel) -> Arrays:
        """`moved`, how far images move, over setting and layer; and, where images are judged, which are `correct`.

        `correct_as_trained` are the same images without gains.
        """
        base = model.samples(model.guidance)
        moved, correct = [], []
        for gains in SETTINGS.values():
            ends = [model.samples(model.guidance, layer_gains=gains(layer)) for layer in model.layers]
            moved.append([float((end - base).square().mean().sqrt()) for end in ends])
            correct.append([model.correct(end) for end in ends])
        places: dict[str, Coordinates] = {"setting": list(SETTINGS), "layer": model.layers}
        arrays = {"moved": NamedArray(np.array(moved), places)}
        judged = model.correct(base)
        if judged is not None:
            images: dict[str, Coordinates] = {"image": range(len(judged))}
            arrays["correct"] = NamedArray(np.array(correct, dtype=np.float64), {**places, **images})
            arrays["correct_as_trained"] = NamedArray(judged.astype(np.float64), images)
        return arrays

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """The layer that images depend on most, by each setting."""
        moved = arrays["moved"]
        most = [
            f"{setting} layer {moved.axes['layer'][int(moved.at(setting=setting).argmax())]} "
            f"({moved.at(setting=setting).max():.3f})"
            for setting in moved.axes["setting"]
        ]
        return [
            f"Images move most, root mean square in latent units, with {', '.join(most)}.",
            'To sample with gains: sroute generate "PROMPT" --layer-gains 3=0,5=2, or all=0,5=1 for one layer alone.',
        ]

    def tables(self, arrays: Arrays, model: SavedModel) -> list[Table]:
        """One row a layer."""
        moved, judged = arrays["moved"], "correct" in arrays
        settings = [str(setting) for setting in moved.axes["setting"]]
        header = ["layer", *(f"{setting}: images move" for setting in settings)]
        header += [f"{setting}: {what}" for setting in settings for what in ("correct", "change")] if judged else []
        rows = []
        for layer in moved.axes["layer"]:
            row = [str(layer), *(f"{value:.4f}" for value in moved.at(layer=layer))]
            if judged:
                base = arrays["correct_as_trained"].values
                for correct in arrays["correct"].at(layer=layer):
                    row += [share_correct(correct), paired_change(correct, base)]
            rows.append(row)
        caption = (
            f"{len(model.prompts)} prompts at guidance {model.guidance:g}, one layer at a time dropped (gain 0), "
            "doubled (gain 2) or alone (all others 0) in all blocks; each token's context stays as large as it was. "
            "Images move: root mean square against the same noise without gains, in latent units."
        )
        if judged:
            share = share_correct(arrays["correct_as_trained"].values)
            caption += f" Without gains {share} of the images are correct; changes are paired, ± one standard error."
        return [Table(header, rows, caption)]

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """What each layer does, in numbers, then in pictures for each setting."""
        figures = [_draw_numbers(arrays)]
        count = min(PICTURED, len(model.layers))
        shown = [model.layers[number * len(model.layers) // count] for number in range(count)]
        for setting, gains in SETTINGS.items():
            ends = {"as trained": model.samples(model.guidance)}
            for layer in shown:
                ends[f"layer {layer} {setting}"] = model.samples(model.guidance, layer_gains=gains(layer))
            figures.append(draw_pictures(model, ends, setting, f"Samples with one layer {setting}"))
        return figures


def _draw_numbers(arrays: Arrays) -> Figure:
    moved, correct = arrays["moved"], arrays.get("correct")
    canvas, axes = panels(1, 1 if correct is None else 2, 2.8)
    for number, setting in enumerate(moved.axes["setting"]):
        curves = [moved.at(setting=setting)]
        curves += [] if correct is None else [correct.at(setting=setting).mean(-1)]
        for place, values in zip(axes, curves, strict=True):
            color, dash = OKABE_ITO[number], DASHES[number]
            (line,) = place.plot(moved.numbers("layer"), values, color=color, ls=dash, marker="o", ms=3)
            line.set(clip_on=False, label=str(setting))
    axes[0].set_ylabel("images move (rms)")
    canvas.legend(*axes[0].get_legend_handles_labels(), title="layer", title_fontsize=7, loc="outside right center")
    caption = "What images do when one language-model layer is dropped, doubled or heard alone in all blocks: how far "
    caption += "they move from those of the same noise without gains"
    if correct is not None:
        axes[1].axhline(arrays["correct_as_trained"].values.mean(), color="0.5", linewidth=0.8, linestyle=":")
        axes[1].set(ylabel="share of correct images", ylim=(0, 1))
        caption += "; and the share of correct images, the dotted line without gains"
    for place in axes:
        place.set_xlabel("language-model layer")
        place.set_ylim(bottom=0)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    return Figure("knob", canvas, f"{caption}.")
