"""What an ablation comes to: the paper's tables for the embedded world, learning curves, and one page of it all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..evaluation.compare import correct, mean_score, paired_difference
from ..evaluation.image_files import Place
from ..evaluation.information_run import COST
from ..evaluation.result import OVERALL, Measure, Result, read_result
from ..evaluation.runner import IMAGES
from ..evaluation.scenes import CHOSEN, GENEVAL_SKILLS
from ..io.files import METRICS, JsonObject, write_json, write_text
from ..io.jsonl import read_lines
from ..reporting import intervals
from ..reporting.figures import OKABE_ITO
from ..reporting.intervals import Estimate
from ..reporting.page import Page
from ..reporting.table import Table
from ..scenes import SKILLS
from .ablation import AblationOptions, Trial, primary_of
from .ablation_cost import cost_table

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

Results = Mapping[str, Sequence[Result]]
"""By strategy, the results of its seeds, in the same order of seeds."""


def write_ablation(trials: Sequence[Trial], options: AblationOptions, out: Path) -> Path:
    """Writes tables (`tables.md`, a CSV each), `learning.png` and `index.html`; returns the latter's path."""
    by_label: dict[str, list[Trial]] = {}
    for trial in trials:
        by_label.setdefault(trial.label, []).append(trial)
    primary = primary_of(list(by_label), options)
    results = _read(by_label, "scenes") if options.scores else {}
    tables = score_tables(by_label, results, primary) if options.scores else []
    if options.information:
        tables += information_tables(_read(by_label, "information"), primary)
    tables += [cost_table(by_label, options), loss_table(by_label, primary)]
    tables = [replace(table, title=f"Table {number}: {table.title}") for number, table in enumerate(tables, 1)]
    write_text(out / "tables.md", "\n".join(f"## {t.title}\n\n{t.markdown()}\n\n{t.caption}\n" for t in tables))
    for number, table in enumerate(tables, 1):
        write_text(out / f"table-{number}.csv", table.csv())
    return _write_page(by_label, results, tables, options, out)


def score_tables(by_label: Mapping[str, Sequence[Trial]], results: Results, primary: str) -> list[Table]:
    """What the detector found: strategies, skills, and the shift of the gate's time where there is a gate."""
    tables = [main_table(results, primary), skill_table(results)]
    timed = {label: own for label, own in by_label.items() if own[0].depends_on_time}
    if timed:
        tables.append(shift_table(results, _read(timed, "shifted"), primary))
    return tables


def _read(by_label: Mapping[str, Sequence[Trial]], folder: str) -> dict[str, list[Result]]:
    return {label: [read_result(trial.folder / folder) for trial in own] for label, own in by_label.items()}


def _measures(results: Results) -> dict[tuple[str, str], Measure]:
    """By name and part; where not all skills were scored, those that were are the overall, even a single one."""
    first = next(iter(results.values()))[0]
    names = {CHOSEN: OVERALL}
    if len({measure.name for measure in first.measures}) == 1:
        only = {(OVERALL, measure.part): measure for measure in first.measures}
        return {**{(measure.name, measure.part): measure for measure in first.measures}, **only}
    return {(names.get(measure.name, measure.name), measure.part): measure for measure in first.measures}


def _score(outcome: Estimate | None, unit: float = 100) -> str:
    """In per cent, or in other parts of one; the interval does not break over lines."""
    if outcome is None:
        return "–"
    mean, low, high = (unit * value for value in outcome[:3])
    return f"{mean:.1f} [{low:.1f},\N{NO-BREAK SPACE}{high:.1f}]"


def _contrasts(
    outcomes: Mapping[str, Estimate | None],
    primary: str,
    unit: float = 100,
    less_is_better: bool = False,
    digits: int = 1,
) -> dict[str, list[str]]:
    """By label, the difference with its interval, and the verdict; all but the primary one after Holm's correction."""
    known = {label: outcome for label, outcome in outcomes.items() if outcome is not None}
    place = list(known).index(primary) if primary in known else None
    p_values = correct([outcome.p_value for outcome in known.values()], place)
    cells = {label: ["–", "–"] for label in outcomes}
    for (label, outcome), p_value in zip(known.items(), p_values, strict=True):
        mean, low, high = (unit * value for value in outcome[:3])
        mark = "\N{NO-BREAK SPACE}*" if intervals.beyond_noise(p_value) else ""
        largest = f"{unit * outcome.largest:.{digits}f}"
        cells[label] = [
            f"{mean:+.{digits}f} [{low:+.{digits}f},\N{NO-BREAK SPACE}{high:+.{digits}f}]{mark}",
            intervals.verdict(outcome, p_value, largest, less_is_better),
        ]
    return cells


def _caption(results: Results, what: str) -> str:
    complete = all(result.complete for own in results.values() for result in own)
    state = "" if complete else "INCOMPLETE: some images were not scored. "
    return f"{state}{what} {_sample(len(next(iter(results.values()))))}"


def _sample(runs: int, fixed: str = "the prompts are fixed") -> str:
    if runs == 1:
        return "One seed: the 95 % intervals are about this checkpoint and say nothing of other seeds."
    return f"Means over {runs} seeds; 95 % intervals over seeds, {fixed}."


def _family(first: str, primary: str) -> str:
    """How the contrasts of a table are told from noise."""
    return (
        f"Differences from {first} are paired; * means beyond noise: for {primary}, the primary contrast, by its own "
        "p-value, and for the others after Holm's correction for their number."
    )


def main_table(results: Results, primary: str) -> Table:
    """Strategies by groups of skills, the spread of their seeds, and differences from the first strategy."""
    known, first = _measures(results), next(iter(results))
    columns = {name: known[place] for name, place in MAIN_COLUMNS.items() if place in known}
    overall = known[OVERALL, "all"]
    others = {label: own for label, own in results.items() if label != first}
    cells = _contrasts(
        {label: paired_difference(own, results[first], overall) for label, own in others.items()}, primary
    )
    rows = [
        [label, *(_score(mean_score(own, measure)) for measure in columns.values()), _spread(own, overall), *change]
        for label, own in results.items()
        for change in [cells.get(label, ["", ""])]
    ]
    what = (
        "Share of images, in per cent, in which all that the prompt claims is found; held-out prompts speak of "
        f"combinations never trained on. The spread is the standard deviation of overall between seeds. "
        f"{_family(first, primary)}"
    )
    header = ["strategy", *columns, "spread", f"− {first}", "verdict"]
    return Table(header, rows, _caption(results, what), "fusion strategies")


def _spread(results: Sequence[Result], measure: Measure) -> str:
    """Standard deviation of a measure between runs, in per cent."""
    scores = [outcome.mean for result in results if (outcome := mean_score([result], measure)) is not None]
    return f"{100 * np.std(scores, ddof=1):.1f}" if len(scores) > 1 else "–"


def skill_table(results: Results) -> Table:
    """Skills by strategies, those of GenEval first."""
    known = _measures(results)
    rows = [
        [skill, *(_score(mean_score(own, known[skill, "all"])) for own in results.values())]
        for skill in (*GENEVAL_SKILLS, *(skill for skill in SKILLS if skill not in GENEVAL_SKILLS))
        if (skill, "all") in known
    ]
    caption = _caption(results, "Share of correct images in per cent, by skill: GenEval's six tasks, then the others.")
    return Table(["skill", *results], rows, caption, "skills")


def shift_table(results: Results, shifted: Results, primary: str) -> Table:
    """Sampling with the gate's time shifted against sampling as trained."""
    overall = _measures(results)[OVERALL, "all"]
    outcomes = {label: paired_difference(own, results[label], overall) for label, own in shifted.items()}
    primary = primary if primary in outcomes else next(iter(outcomes))
    cells = _contrasts(outcomes, primary)
    rows = [
        [label, _score(mean_score(results[label], overall)), _score(mean_score(own, overall)), *cells[label]]
        for label, own in shifted.items()
    ]
    what = (
        "The gate's time is shifted as in the paper's eq. 11: in flow time, at most 0.02 ahead of the backbone's. "
        f"Scores are in per cent. {_family('the same models without the shift', primary)}"
    )
    header = ["strategy", "as trained", "shifted", "difference", "verdict"]
    return Table(header, rows, _caption(shifted, what), "the gate's time shifted")


def information_tables(results: Results, primary: str) -> list[Table]:
    """What captions leave open, in nats: all skills together and by band of noise, and skill by skill."""
    measures = [measure for measure in next(iter(results.values()))[0].measures if measure.part == COST]
    overall = next(measure for measure in measures if measure.name == OVERALL)
    bands = [measure for measure in measures if measure.name.startswith("log γ")]
    skills = [measure for measure in measures if measure not in (overall, *bands)]
    first = next(iter(results))
    others = {label: own for label, own in results.items() if label != first}
    cells = _contrasts(
        {label: paired_difference(own, results[first], overall) for label, own in others.items()}, primary, 1, True, 2
    )
    rows = [
        [label, *(_score(mean_score(own, measure), 1) for measure in (overall, *bands)), *cells.get(label, ["", ""])]
        for label, own in results.items()
    ]
    what = f"Nats that the true caption leaves open; less is better. {_family(first, primary)}"
    header = ["strategy", OVERALL, *(band.name for band in bands), f"− {first}", "verdict"]
    whole = Table(header, rows, _caption(results, what), "cost in nats")
    by_skill = []
    for measure in skills:
        outcomes = [paired_difference(own, results[first], measure) for own in others.values()]
        base = _score(mean_score(results[first], measure), 1)
        by_skill.append([measure.name, base, *(_change(outcome) for outcome in outcomes)])
    caption = _caption(
        results,
        f"Nats that the true caption leaves open, by skill, and differences from {first}; less is better. Intervals "
        "are not corrected for their number.",
    )
    return [whole, Table(["skill", first, *others], by_skill, caption, "cost in nats, by skill")]


def _change(outcome: Estimate | None) -> str:
    if outcome is None:
        return "–"
    return f"{outcome.mean:+.2f} [{outcome.low:+.2f},\N{NO-BREAK SPACE}{outcome.high:+.2f}]"


def loss_table(by_label: Mapping[str, Sequence[Trial]], primary: str) -> Table:
    """What training had come to, which tells strategies apart long before their pictures do."""
    first = next(iter(by_label))
    losses = _last_losses(by_label)
    width = float(np.ptp(np.concatenate([values.ravel() for values in losses.values()])))
    outcomes = {label: intervals.difference([values - losses[first]], width) for label, values in losses.items()}
    cells = _contrasts({label: outcomes[label] for label in outcomes if label != first}, primary, LOSS_UNIT, True)
    rows = [
        [label, f"{LOSS_UNIT * values.mean():.1f}", *cells.get(label, ["", ""])] for label, values in losses.items()
    ]
    caption = (
        f"10⁴ × the training loss over the last {LAST:.0%} of the steps; less is better. Runs with one seed see the "
        f"same pictures, captions, noise and timesteps in the same order. {_family(first, primary)} "
        f"{_sample(len(by_label[first]), 'the steps are fixed')}"
    )
    return Table(["strategy", "loss", f"− {first}", "verdict"], rows, caption, "training loss")


def _last_losses(by_label: Mapping[str, Sequence[Trial]]) -> dict[str, NDArray[np.float64]]:
    """By strategy, runs x steps: of the last steps, those that every run has logged."""
    runs = {
        label: [{line["step"]: line["loss"] for line in _metrics(trial)} for trial in own]
        for label, own in by_label.items()
    }
    shared = set.intersection(*(set(run) for own in runs.values() for run in own))
    last = [step for step in sorted(shared) if step > (1 - LAST) * max(shared)]
    return {label: np.array([[run[step] for step in last] for run in own]) for label, own in runs.items()}


def _metrics(trial: Trial) -> list[JsonObject]:
    return read_lines(trial.run / METRICS)


def draw_learning(by_label: Mapping[str, Sequence[Trial]], path: Path) -> Path:
    """Training loss over steps: the mean over seeds, each averaged over a fiftieth of the run, and their range."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (label, own) in enumerate(by_label.items()):
        curves = []
        for trial in own:
            lines = _metrics(trial)
            losses = np.array([line["loss"] for line in lines])
            chunks = np.array_split(np.arange(len(losses)), min(50, len(losses)))
            steps = [lines[chunk[-1]]["step"] for chunk in chunks]
            curves.append([losses[chunk].mean() for chunk in chunks])
        shortest = min(map(len, curves))
        values = np.array([curve[:shortest] for curve in curves])
        color = OKABE_ITO[number % len(OKABE_ITO)]
        axes.plot(steps[:shortest], values.mean(0), label=label, color=color, linewidth=1)
        axes.fill_between(steps[:shortest], values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="optimizer steps", ylabel="flow-matching loss", yscale="log")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    return path


def _write_page(
    by_label: Mapping[str, Sequence[Trial]],
    results: Results,
    tables: Sequence[Table],
    options: AblationOptions,
    out: Path,
) -> Path:
    first = next(iter(by_label.values()))
    config, seeds = first[0].config, ", ".join(str(trial.seed) for trial in first)
    page = Page("Fusion strategies on the embedded world")
    page.text(
        f"Every strategy was trained with the same backbone, data order and budget: {config.training.steps} steps of "
        f"{config.training.batch_size} pictures of {config.data.image_size} pixels, seeds {seeds}. "
        f"{_how_scored(options)}"
    )
    for table in tables:
        page.heading(table.title)
        page.table(table)
    page.heading("Learning curves")
    page.image(draw_learning(by_label, out / "learning.png"), "Training loss: mean over seeds, and their range.")
    if options.scores:
        page.heading("Samples")
        page.text("Of the first seed; the same noise in each row.")
        page.gallery(["", *by_label], _samples(by_label, options), width=96)
        write_json(out / "scores.json", {label: [result.values for result in own] for label, own in results.items()})
    page.heading("All numbers")
    page.text("table-1.csv and so on hold the tables; scores.json, if images were scored, each prompt's score by seed.")
    return page.write(out / "index.html")


def _how_scored(options: AblationOptions) -> str:
    if not options.scores:
        return "No images were sampled."
    scales = ", ".join(f"{scale:g}" for scale in options.guidance)
    chosen = f"guidance {scales}" if len(options.guidance) == 1 else f"each model's best guidance of {scales}"
    return (
        f"Samples: {options.steps} steps, {chosen}, {options.images_per_prompt} of each prompt, judged by the detector."
    )


def _samples(by_label: Mapping[str, Sequence[Trial]], options: AblationOptions) -> dict[str, list[list[Path]]]:
    """By prompt, the first image of each strategy."""
    benchmark = options.benchmark()
    indices = list(benchmark.prompts)
    chosen = indices[:: max(len(indices) // PICTURED, 1)][:PICTURED]
    folders = [own[0].folder / "scenes" / IMAGES for own in by_label.values()]
    names = {index: benchmark.files.name(Place(index, 0)) for index in chosen}
    return {benchmark.prompts[index]: [[folder / names[index]] for folder in folders] for index in chosen}
