"""Which language-model layers are needed, and what it would cost to drop the others (paper, section 5.1)."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import OKABE_ITO, Figure, panels
from ..reporting.table import Table
from .base import ANALYSES, Analysis
from .model import SavedModel
from .pictures import paired_change, share_correct
from .prune import context_change, most_weight, rank_layers

# Of many layers these numbers are tried, and all of them.
NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@ANALYSES.register("usage")
class Usage(Analysis):
    """Layers by the most weight they get; what is lost without the rest."""

    title = "Layers that are needed"
    needs = "a fusion that has layer weights and can drop layers"
    samples = True

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models whose layers can be ranked, and dropped."""
        if model.fusion is None or model.weights is None:
            return False
        try:
            model.fusion.keep_layers(range(max(len(model.layers) - 1, 1)))
        except ValueError:
            return False
        return True

    def compute(self, model: SavedModel) -> Arrays:
        """`most_weight` over layers; all else over `keep`, the number of layers kept."""
        weights = model.magnitudes
        peak, order = most_weight(weights), rank_layers(weights)
        rows = weights.values.reshape(-1, len(peak))
        numbers, features = keep_numbers(int((peak > 0).sum())), model.features(model.prompts)
        lost, changes, run, correct = [], [], [], []
        for number in numbers:
            kept = sorted(order[:number])
            dropped = [position for position in range(len(peak)) if position not in kept]
            lost.append([rows[:, dropped].sum(1).max(), rows[:, dropped].sum(1).mean()])
            changes.append(context_change(model.running_fusion, features, kept) or (np.nan, np.nan))
            run.append(max(model.layers[position] for position in kept))
            if model.scene_prompts is not None:
                ends = model.samples_of_layers(kept) if dropped else model.samples(model.guidance)
                correct.append(model.correct(ends))
        by_number: dict[str, Coordinates] = {"keep": numbers}
        statistic: dict[str, Coordinates] = {**by_number, "statistic": ["largest", "mean"]}
        arrays = {
            "most_weight": NamedArray(peak, {"layer": model.layers}),
            "lost_weight": NamedArray(np.array(lost), statistic),
            "context_change": NamedArray(np.array(changes), statistic),
            "layers_run": NamedArray(np.array(run), by_number),
        }
        if correct:
            values = np.array(correct, dtype=np.float64)
            arrays["correct"] = NamedArray(values, {**by_number, "image": range(values.shape[1])})
        return arrays

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """The order of layers."""
        peak = arrays["most_weight"]
        order = np.lexsort((peak.numbers("layer"), -peak.values))
        ranked = ", ".join(f"{peak.axes['layer'][position]} ({peak.values[position]:.3f})" for position in order[:12])
        return [
            f"Layers by the most weight that any block gives them at any time: {ranked}"
            f"{' …' if len(order) > 12 else ''}.",
            "To write a pipeline with fewer layers: sroute prune PIPELINE OUT --keep K.",
        ]

    def tables(self, arrays: Arrays, model: SavedModel) -> list[Table]:
        """One row a number of layers kept."""
        total = model.language_model_layers
        header = ["kept", "layers run", "top layers saved", "most weight lost", "context change: largest", "mean"]
        correct = arrays.get("correct")
        if correct is not None:
            header += ["correct", "change"]
        rows = []
        for number in arrays["layers_run"].axes["keep"]:
            run = int(arrays["layers_run"].at(keep=number))
            changes = arrays["context_change"].at(keep=number)
            lost = arrays["lost_weight"].at(keep=number, statistic="largest")
            row = [str(number), str(run), str(total - run), f"{lost:.3f}"]
            row += ["–" if np.isnan(change) else f"{change:.1%}" for change in changes]
            if correct is not None:
                all_layers = correct.values[-1]
                row += [share_correct(correct.at(keep=number)), paired_change(correct.at(keep=number), all_layers)]
            rows.append(row)
        caption = (
            "Keeping the layers with the most weight, of either sign; a softmax renormalizes the rest. Layers run: of "
            f"the language model, which has {total}. Context change: relative, over blocks, times and tokens of "
            f"{len(model.prompts)} prompts"
        )
        caption += "; not measured for a fusion that reads the image." if "state" in model.varies_with else "."
        return [Table(header, rows, caption)]

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """Most weight a layer; loss over the number of layers kept; correct share over the same."""
        correct = arrays.get("correct")
        canvas, axes = panels(1, 2 if correct is None else 3, 2.9)
        peak = arrays["most_weight"]
        axes[0].bar(peak.numbers("layer"), peak.values, color=OKABE_ITO[0])
        axes[0].set(xlabel="language-model layer", ylabel="most weight given")
        for number, (name, label) in enumerate((("lost_weight", "weight lost"), ("context_change", "context change"))):
            array = arrays[name]
            if np.isnan(array.values).all():
                continue  # not measured for a fusion that reads the image
            for statistic, dash in (("largest", "-"), ("mean", "--")):
                values, text = array.at(statistic=statistic), f"{label}, {statistic}"
                color = OKABE_ITO[number]
                axes[1].plot(array.numbers("keep"), values, color=color, linestyle=dash, marker=".", label=text)
        axes[1].set(xlabel="layers kept", ylabel="share, or relative change")
        axes[1].legend(loc="lower left", bbox_to_anchor=(0, 1))
        if correct is not None:
            share = correct.values.mean(1)
            error = np.sqrt(share * (1 - share) / correct.values.shape[1])
            axes[2].errorbar(
                correct.numbers("keep"), share, error, color=OKABE_ITO[2], marker="o", markersize=3, capsize=2
            )
            axes[2].set(xlabel="layers kept", ylabel="share of correct images", ylim=(0, 1))
        for place in axes:
            place.set_ylim(bottom=0)
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
        caption = (
            "Left: the most weight that each language-model layer gets from any block at any time. Then, against the "
            "number of layers kept: the weight that the others had, and the relative change of the context"
        )
        caption += "." if correct is None else "; and the share of correct images (± 1 standard error)."
        return [Figure("usage", canvas, caption)]


def keep_numbers(count: int) -> list[int]:
    """The numbers of layers that are tried, the last of them all."""
    if count <= 8:
        return list(range(1, count + 1))
    return [*(number for number in NUMBERS if number < count), count]
