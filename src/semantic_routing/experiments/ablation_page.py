"""What an ablation comes to: the paper's tables for the embedded world, learning curves, and one page of it all."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..evaluation.layout import make_jobs
from ..evaluation.report import OVERALL, Measure, Result, read_result
from ..evaluation.scenes import CHOSEN, GENEVAL_SKILLS
from ..io.files import write_text
from ..io.jsonl import read_lines
from ..models.flops import Sampling, count_parameters, count_sampling
from ..reporting.intervals import Estimate, estimate
from ..reporting.page import Page
from ..scenes import SKILLS
from ..training.build import build_transformer, resolve_sizes
from .ablation import GATE_ADVANCE, AblationOptions, Cell

MAIN_COLUMNS = {
    "GenEval tasks": ("geneval", "all"),
    "basic": ("basic", "all"),
    "advanced": ("advanced", "all"),
    OVERALL: (OVERALL, "all"),
    "trained": (OVERALL, "trained"),
    "held-out": (OVERALL, "held-out"),
}
"""Columns of the first table: a measure's name and part."""
LAST = 0.2
"""Share of a run whose losses the last table compares."""
LOSS_UNIT = 1e4
"""Losses are shown times this."""
PICTURED = 8
TEXT_TOKENS = 32
"""Of the prompt whose cost is counted."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by color-blind readers."""


@dataclass(frozen=True)
class AblationTable:
    """A table with its caption."""

    name: str
    caption: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Heading, table and caption."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(
            [f"## {self.name}", "", *("| " + " | ".join(row) + " |" for row in lines), "", self.caption, ""]
        )

    def csv(self) -> str:
        """Header and rows."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.header, *self.rows])
        return buffer.getvalue()


Results = Mapping[str, Sequence[Result]]
"""By strategy, the results of its seeds, in the same order of seeds."""


def write_ablation(cells: Sequence[Cell], options: AblationOptions, out: Path) -> Path:
    """Writes tables (`tables.md`, a CSV each), `learning.png` and `index.html`; returns the latter's path."""
    by_label: dict[str, list[Cell]] = {}
    for cell in cells:
        by_label.setdefault(cell.label, []).append(cell)
    results = {label: [read_result(cell.folder / "scenes") for cell in own] for label, own in by_label.items()}
    tables = [main_table(results), skill_table(results)]
    gated = [label for label, own in by_label.items() if own[0].depends_on_time]
    advanced = {label: [read_result(cell.folder / "advanced") for cell in by_label[label]] for label in gated}
    if gated:
        tables.append(shift_table(results, advanced))
    tables += [cost_table(by_label, options), loss_table(by_label)]
    write_text(out / "tables.md", "\n".join(table.markdown() for table in tables))
    for number, table in enumerate(tables, 1):
        write_text(out / f"table-{number}.csv", table.csv())
    return _write_page(by_label, results, tables, options, out)


def over_runs(results: Sequence[Result], measure: Measure) -> Estimate | None:
    """A measure's mean over seeds and prompts, with the interval of both."""
    return estimate(
        [[[result.values[key] for key in group] for result in results] for group in _shared(results, measure)]
    )


def difference(results: Sequence[Result], baseline: Sequence[Result], measure: Measure) -> Estimate | None:
    """The same of the difference from the baseline: equal seeds and equal prompts are paired."""
    groups = _shared([*results, *baseline], measure)
    pairs = list(zip(results, baseline, strict=True))
    return estimate([[[one.values[key] - two.values[key] for key in group] for one, two in pairs] for group in groups])


def _shared(results: Sequence[Result], measure: Measure) -> list[list[str]]:
    """The measure's groups, reduced to prompts that all results have."""
    return [[key for key in group if all(key in result.values for result in results)] for group in measure.groups]


def _measures(results: Results) -> dict[tuple[str, str], Measure]:
    """By name and part; where not all skills were scored, those that were are the overall."""
    first = next(iter(results.values()))[0]
    names = {CHOSEN: OVERALL}
    return {(names.get(measure.name, measure.name), measure.part): measure for measure in first.measures}


def _score(outcome: Estimate | None, unit: float = 100) -> str:
    """In per cent, or in other parts of one; the interval does not break over lines."""
    if outcome is None:
        return "–"
    mean, low, high = (unit * value for value in outcome)
    return f"{mean:.1f} [{low:.1f},\N{NO-BREAK SPACE}{high:.1f}]"


def _change(outcome: Estimate | None, unit: float = 100) -> str:
    """In percentage points, or in other parts of one, and a mark if the interval leaves out 0."""
    if outcome is None:
        return "–"
    mean, low, high = (unit * value for value in outcome)
    mark = "\N{NO-BREAK SPACE}*" if outcome.beyond_noise else ""
    return f"{mean:+.1f} [{low:+.1f},\N{NO-BREAK SPACE}{high:+.1f}]{mark}"


def _caption(results: Results, what: str) -> str:
    count = len(next(iter(results.values())))
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    complete = all(result.complete for own in results.values() for result in own)
    state = "" if complete else "INCOMPLETE: some images were not scored. "
    drawn = "seeds and prompts" if count > 1 else "prompts alone, which says nothing of other seeds"
    return f"{state}{what} Means over {seeds}; 95 % bootstrap intervals over {drawn}."


def main_table(results: Results) -> AblationTable:
    """Table 1: strategies by groups of skills, and the overall difference from the first strategy."""
    known, first = _measures(results), next(iter(results))
    columns = {name: known[place] for name, place in MAIN_COLUMNS.items() if place in known}
    rows = []
    for label, own in results.items():
        row = [label, *(_score(over_runs(own, measure)) for measure in columns.values())]
        change = "" if label == first else _change(difference(own, results[first], known[OVERALL, "all"]))
        rows.append([*row, change])
    what = (
        "Share of images, in per cent, in which all that the prompt claims is found; held-out prompts speak of "
        f"combinations never trained on. The last column is overall, minus {first}, paired; * means that its interval "
        "leaves out 0."
    )
    header = ["strategy", *columns, f"− {first}"]
    return AblationTable("Table 1: fusion strategies", _caption(results, what), header, rows)


def skill_table(results: Results) -> AblationTable:
    """Table 2: skills by strategies, those of GenEval first."""
    known = _measures(results)
    rows = [
        [skill, *(_score(over_runs(own, known[skill, "all"])) for own in results.values())]
        for skill in (*GENEVAL_SKILLS, *(skill for skill in SKILLS if skill not in GENEVAL_SKILLS))
        if (skill, "all") in known
    ]
    caption = _caption(results, "Share of correct images in per cent, by skill: GenEval's six tasks, then the others.")
    return AblationTable("Table 2: skills", caption, ["skill", *results], rows)


def shift_table(results: Results, advanced: Results) -> AblationTable:
    """Table 3: sampling with the gate ahead of the backbone against sampling as trained."""
    overall = _measures(results)[OVERALL, "all"]
    rows = []
    for label, own in advanced.items():
        before, after = over_runs(results[label], overall), over_runs(own, overall)
        rows.append([label, _score(before), _score(after), _change(difference(own, results[label], overall))])
    what = (
        f"The gate's time runs ahead of the backbone's by the paper's eq. 11 with amplitude {GATE_ADVANCE:g}, so by up "
        f"to {2 * GATE_ADVANCE:g} in flow time. Scores are in per cent."
    )
    header = ["strategy", "as trained", "gate ahead", "difference"]
    return AblationTable("Table 3: the gate's time shifted", _caption(advanced, what), header, rows)


def cost_table(by_label: Mapping[str, Sequence[Cell]], options: AblationOptions) -> AblationTable:
    """Table 4: parameters, FLOPs of an image, and the speed of training that was seen."""
    rows, first = [], None
    for label, own in by_label.items():
        config = own[0].config
        sizes = resolve_sizes(config)
        with torch.device("meta"):
            transformer = build_transformer(config, sizes)
        sampling = Sampling(config.data.image_size // sizes.downsampling, TEXT_TOKENS, options.steps)
        costs = (sum(count_parameters(transformer).values()), sum(count_sampling(transformer, sampling).values()))
        first = first or costs
        speed = np.median([line["images_per_second"] for cell in own for line in _metrics(cell)])
        changes = [f"{100 * (cost / base - 1):+.2f} %" for cost, base in zip(costs, first, strict=True)]
        rows.append(
            [label, f"{costs[0] / 1e6:.3f} M", changes[0], f"{costs[1] / 1e9:.3f} G", changes[1], f"{speed:.0f}"]
        )
    caption = (
        f"FLOPs of the transformer for one guided image in {options.steps} steps from {TEXT_TOKENS} tokens, the "
        "language model not counted; changes are against the first row; images a second are training's median, here."
    )
    header = ["strategy", "parameters", "change", "FLOPs", "change", "training, images/s"]
    return AblationTable("Table 4: cost", caption, header, rows)


def loss_table(by_label: Mapping[str, Sequence[Cell]]) -> AblationTable:
    """Table 5: what training had come to, which tells strategies apart long before their pictures do."""
    first = next(iter(by_label))
    losses = _last_losses(by_label)
    rows = []
    for label, values in losses.items():
        change = "" if label == first else _change(estimate([values - losses[first]]), LOSS_UNIT)
        rows.append([label, _score(estimate([values]), LOSS_UNIT), change])
    caption = (
        f"10⁴ × the training loss over the last {LAST:.0%} of the steps, and how far it is from that of {first} at "
        "the same steps: runs with one seed see the same pictures, captions, noise and timesteps in the same order. "
        "Means over seeds; 95 % bootstrap intervals over seeds and logged steps; * means that the interval leaves out "
        "0. Less is better."
    )
    return AblationTable("Table 5: training loss", caption, ["strategy", "loss", f"− {first}"], rows)


def _last_losses(by_label: Mapping[str, Sequence[Cell]]) -> dict[str, NDArray[np.float64]]:
    """By strategy, runs x steps: of the last steps, those that every run has logged."""
    runs = {
        label: [{line["step"]: line["loss"] for line in _metrics(cell)} for cell in own]
        for label, own in by_label.items()
    }
    shared = set.intersection(*(set(run) for own in runs.values() for run in own))
    last = [step for step in sorted(shared) if step > (1 - LAST) * max(shared)]
    return {label: np.array([[run[step] for step in last] for run in own]) for label, own in runs.items()}


def _metrics(cell: Cell) -> list[dict[str, Any]]:
    return read_lines(cell.run / "metrics.jsonl")


def draw_learning(by_label: Mapping[str, Sequence[Cell]], path: Path) -> Path:
    """Training loss over steps: the mean over seeds, each averaged over a fiftieth of the run, and their range."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (label, own) in enumerate(by_label.items()):
        curves = []
        for cell in own:
            lines = _metrics(cell)
            losses = np.array([line["loss"] for line in lines])
            chunks = np.array_split(np.arange(len(losses)), min(50, len(losses)))
            steps = [lines[chunk[-1]]["step"] for chunk in chunks]
            curves.append([losses[chunk].mean() for chunk in chunks])
        shortest = min(map(len, curves))
        values = np.array([curve[:shortest] for curve in curves])
        color = COLORS[number % len(COLORS)]
        axes.plot(steps[:shortest], values.mean(0), label=label, color=color, linewidth=1)
        axes.fill_between(steps[:shortest], values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="optimizer steps", ylabel="flow-matching loss", yscale="log")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    return path


def _write_page(
    by_label: Mapping[str, Sequence[Cell]],
    results: Results,
    tables: Sequence[AblationTable],
    options: AblationOptions,
    out: Path,
) -> Path:
    first = next(iter(by_label.values()))
    config, seeds = first[0].config, ", ".join(str(cell.seed) for cell in first)
    page = Page("Fusion strategies on the embedded world")
    page.text(
        f"Every strategy was trained with the same backbone, data order and budget: {config.training.steps} steps of "
        f"{config.training.batch_size} pictures of {config.data.image_size} pixels, seeds {seeds}. Samples: "
        f"{options.steps} steps, guidance {options.guidance:g}, {options.images_per_prompt} of each prompt, judged by "
        "the detector."
    )
    for table in tables:
        page.heading(table.name)
        page.table(table.header, table.rows)
        page.text(table.caption)
    page.heading("Learning curves")
    page.image(draw_learning(by_label, out / "learning.png"), "Training loss: mean over seeds, and their range.")
    page.heading("Samples")
    page.text("Of the first seed; the same noise in each row.")
    page.gallery(["", *by_label], _samples(by_label, options), width=96)
    page.heading("All numbers")
    scores = {label: [result.values for result in own] for label, own in results.items()}
    write_text(out / "scores.json", json.dumps(scores))
    page.text("scores.json holds each prompt's score by strategy and seed; table-1.csv and so on hold the tables.")
    return page.write(out / "index.html")


def _samples(by_label: Mapping[str, Sequence[Cell]], options: AblationOptions) -> dict[str, list[list[Path]]]:
    """By prompt, the first image of each strategy."""
    prompts = options.prompts()
    chosen = prompts[:: max(len(prompts) // PICTURED, 1)][:PICTURED]
    folders = [own[0].folder / "scenes" / "images" for own in by_label.values()]
    return {
        prompt.prompt: [[job.path] for folder in folders for job in make_jobs(folder, {prompt.index: ""}, 1)]
        for prompt in chosen
    }
