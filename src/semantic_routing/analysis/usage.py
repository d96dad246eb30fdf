"""Which language-model layers are needed, and what it would cost to drop the others (paper, section 5.1)."""

import numpy as np

from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import OKABE_ITO, Drawing, panels
from .base import FINE_TIMES, Analysis, Subject, Table, routed
from .pictures import paired_change, share_correct
from .prune import context_change, most_weight, prune_pipeline, rank_layers

# Of many layers these numbers are tried, and all of them.
NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Usage(Analysis):
    """Layers by the most weight they get; what is lost without the rest."""

    name = "usage"
    title = "Layers that are needed"
    needs = "sampling"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Every model with a router."""
        return routed(strategy)

    def compute(self, subject: Subject) -> Arrays:
        """`most_weight` over layers; all else over `keep`, the number of layers kept."""
        weights = subject.weights(FINE_TIMES)
        peak, order = most_weight(weights), rank_layers(weights)
        rows = weights.values.reshape(-1, len(peak))
        numbers = keep_numbers(int((peak > 0).sum()))
        lost, changes, run, correct = [], [], [], []
        for number in numbers:
            kept = sorted(order[:number])
            dropped = [position for position in range(len(peak)) if position not in kept]
            lost.append([rows[:, dropped].sum(1).max(), rows[:, dropped].sum(1).mean()])
            changes.append(list(context_change(subject.pipeline, kept, subject.prompts)))
            run.append(max(subject.layers[position] for position in kept))
            if subject.scene_prompts is not None:
                guidance = subject.options.guidance
                if dropped:
                    ends = subject.samples_of(prune_pipeline(subject.pipeline, kept), guidance)
                else:
                    ends = subject.samples(guidance)
                correct.append(subject.correct(ends))
        by_number: dict[str, Coordinates] = {"keep": numbers}
        statistic: dict[str, Coordinates] = {**by_number, "statistic": ["largest", "mean"]}
        arrays = {
            "most_weight": NamedArray(peak, {"layer": subject.layers}),
            "lost_weight": NamedArray(np.array(lost), statistic),
            "context_change": NamedArray(np.array(changes), statistic),
            "layers_run": NamedArray(np.array(run), by_number),
        }
        if correct:
            values = np.array(correct, dtype=np.float64)
            arrays["correct"] = NamedArray(values, {**by_number, "image": range(values.shape[1])})
        return arrays

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """The order of layers."""
        peak = arrays["most_weight"]
        order = np.lexsort((peak.numbers("layer"), -peak.values))
        ranked = ", ".join(f"{peak.axes['layer'][position]} ({peak.values[position]:.3f})" for position in order[:12])
        return [
            f"Layers by the most weight that any block gives them at any time: {ranked}"
            f"{' …' if len(order) > 12 else ''}.",
            "To write a pipeline with fewer layers: sroute prune PIPELINE OUT --keep K.",
        ]

    def tables(self, arrays: Arrays, subject: Subject) -> list[Table]:
        """One row a number of layers kept."""
        total = subject.pipeline.text_encoder.config.num_hidden_layers
        header = ["kept", "layers run", "top layers saved", "most weight lost", "context change: largest", "mean"]
        correct = arrays.get("correct")
        if correct is not None:
            header += ["correct", "change"]
        rows = []
        for number in arrays["layers_run"].axes["keep"]:
            run = int(arrays["layers_run"].at(keep=number))
            change = arrays["context_change"].at(keep=number)
            lost = arrays["lost_weight"].at(keep=number, statistic="largest")
            row = [str(number), str(run), str(total - run), f"{lost:.3f}", f"{change[0]:.1%}", f"{change[1]:.1%}"]
            if correct is not None:
                all_layers = correct.values[-1]
                row += [share_correct(correct.at(keep=number)), paired_change(correct.at(keep=number), all_layers)]
            rows.append(row)
        caption = (
            "Keeping the layers with the most weight, the weights renormalized. Layers run: of the language model, "
            f"which has {total}. Context change: relative, over blocks, times and tokens of {len(subject.prompts)} "
            "prompts."
        )
        return [Table(caption, header, rows)]

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """Most weight a layer; loss over the number of layers kept; correct share over the same."""
        correct = arrays.get("correct")
        figure, axes = panels(1, 2 if correct is None else 3, 2.7, 2.8)
        peak = arrays["most_weight"]
        axes[0].bar(peak.numbers("layer"), peak.values, color=OKABE_ITO[0])
        axes[0].set_xlabel("language-model layer")
        axes[0].set_ylabel("most weight given")
        for number, (name, label) in enumerate((("lost_weight", "weight lost"), ("context_change", "context change"))):
            array = arrays[name]
            for statistic, dash in (("largest", "-"), ("mean", "--")):
                values = array.at(statistic=statistic)
                text = f"{label}, {statistic}"
                axes[1].plot(
                    array.numbers("keep"), values, color=OKABE_ITO[number], linestyle=dash, marker=".", label=text
                )
        axes[1].set_xlabel("layers kept")
        axes[1].set_ylabel("share, or relative change")
        axes[1].set_ylim(bottom=0)
        axes[1].legend(loc="lower left", bbox_to_anchor=(0, 1))
        if correct is not None:
            share = correct.values.mean(1)
            error = np.sqrt(share * (1 - share) / correct.values.shape[1])
            axes[2].errorbar(
                correct.numbers("keep"), share, error, color=OKABE_ITO[2], marker="o", markersize=3, capsize=2
            )
            axes[2].set_xlabel("layers kept")
            axes[2].set_ylabel("share of correct images")
            axes[2].set_ylim(bottom=0)
        caption = (
            "Left: the most weight that each language-model layer gets from any block at any time. Then, against the "
            "number of layers kept: the weight that the others had, and the relative change of the context"
        )
        caption += "." if correct is None else "; and the share of images that show what their prompt claims (±1 s.e.)."
        return [Drawing("usage", figure, caption)]


def keep_numbers(count: int) -> list[int]:
    """The numbers of layers that are tried, the last of them all."""
    if count <= 8:
        return list(range(1, count + 1))
    return [*(number for number in NUMBERS if number < count), count]
