"""Sides of a comparison, each one run or several, of one benchmark: paired differences, and which are beyond noise."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from ..io.files import JsonObject, write_json, write_text
from ..reporting import intervals
from ..reporting.intervals import Estimate
from ..reporting.page import Page
from ..reporting.table import Table
from .result import OVERALL, Measure, Result, format_score, read_result

# Settings that decide which noise an image starts from.
_NOISE = ("seed", "same_noise", "images_per_prompt", "size")
_NO_PROTOCOL = ("sampling", "versions", "prompts", "agreement", "probability_listed", "predicted")
ONE_RUN = "One run a side: this is about these checkpoints and prompts like these, and says nothing of other runs"


@dataclass(frozen=True)
class Side:
    """The runs, say the seeds, of one model or method."""

    name: str
    results: list[Result]

    def score(self, measure: Measure) -> Estimate | None:
        """The mean over runs."""
        return mean_score(self.results, measure)


@dataclass(frozen=True)
class Difference:
    """A side's score minus the baseline's, over the prompts that all runs have.

    Args:
        name: the measure's.
        part: the measure's.
        side: whose score.
        difference: the mean.
        low: end of the 95 % interval.
        high: its other end.
        prompts: that all runs have.
        primary: whether this is the comparison's one primary contrast, whose p-value is not corrected.
        p_value: corrected for the number of contrasts, but for the primary one.
        beyond_noise: whether the p-value is below 0.05.
        verdict: better, worse, or no difference larger than X.
    """

    name: str
    part: str
    side: str
    difference: float
    low: float
    high: float
    prompts: int
    primary: bool
    p_value: float
    beyond_noise: bool
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Sides, the first of which is the baseline."""

    sides: list[Side]
    differences: list[Difference]
    remarks: list[str]

    def table(self) -> Table:
        """A line a measure; of each other side the score, its difference from the baseline, and the verdict."""
        first, *others = self.sides
        titles = [title for side in others for title in (side.name, f"{side.name} − {first.name}", "verdict")]
        by_place = {(entry.name, entry.part, entry.side): entry for entry in self.differences}
        lines = []
        for measure in first.results[0].measures:
            name = measure.name if measure.part == "all" else f"{measure.name} · {measure.part}"
            line = [name, format_score(first.score(measure))]
            for side in others:
                entry = by_place.get((measure.name, measure.part, side.name))
                line += [format_score(side.score(measure)), *_format(entry)]
            lines.append(line)
        return Table(["", first.name, *titles], lines, self.caption(), title=". ".join(self.remarks))

    def caption(self) -> str:
        """How to read the table."""
        primary = next((entry for entry in self.differences if entry.primary), None)
        text = "Differences are paired, with 95 % intervals. * marks those beyond noise"
        if primary is None:
            return text + "."
        return (
            f"{text}: the primary contrast ({primary.name} of {primary.side}) by its own p-value, all others after "
            f"Holm's correction for {len(self.differences) - 1} contrasts."
        )

    def page(self) -> Page:
        """Sides by their overall score, with differences of protocol; then all contrasts."""
        page = Page(f"{self.sides[0].results[0].benchmark}: {len(self.sides)} sides")
        page.table(self._sides_table())
        page.heading("All contrasts")
        lines = [
            [
                *(entry.side, entry.name, entry.part, f"{entry.difference:+.3f}", f"{entry.low:+.3f}"),
                *(f"{entry.high:+.3f}", f"{entry.p_value:.3g}", entry.verdict, str(entry.prompts)),
            ]
            for entry in self.differences
        ]
        header = ["side", "measure", "part", "difference", "low", "high", "p", "verdict", "prompts"]
        page.table(Table(header, lines, self.caption(), sortable=True))
        page.heading("Remarks")
        for remark in self.remarks:
            page.text(f"{remark}.")
        return page

    def _sides_table(self) -> Table:
        """A line a side: its main score, its difference from the baseline, and in what its protocol differs."""
        main = next((entry for entry in self.differences if entry.primary), None)
        by_place = {(entry.side, entry.name, entry.part): entry for entry in self.differences}
        measures = {(measure.name, measure.part): measure for measure in self.sides[0].results[0].measures}
        measure = measures[main.name, main.part] if main else next(iter(measures.values()))
        lines = []
        for side in self.sides:
            entry = by_place.get((side.name, measure.name, measure.part))
            remarks = (remark for remark in self.remarks if remark.startswith(f"{side.name} differs from"))
            judge = side.results[0].settings.get("judge", {})
            unlike = "; ".join(remark.removeprefix(f"{side.name} ") for remark in remarks) or "–"
            lines.append([side.name, format_score(side.score(measure)), *_format(entry), _who(judge), unlike])
        header = ["side", f"{measure.name} · {measure.part}", f"− {self.sides[0].name}", "verdict", "judge", "protocol"]
        return Table(header, lines, "A click on a title sorts. * marks differences beyond noise.", sortable=True)

    def write(self, out: Path) -> None:
        """Writes `comparison.json`, `comparison.csv`, `comparison.md` and the sortable `comparison.html`."""
        self.page().write(out / "comparison.html")
        entries = [asdict(entry) for entry in self.differences]
        sides = {side.name: len(side.results) for side in self.sides}
        write_json(out / "comparison.json", {"sides": sides, "remarks": self.remarks, "differences": entries})
        header = list(Difference.__dataclass_fields__)
        rows = [[str(entry[name]) for name in header] for entry in entries]
        write_text(out / "comparison.csv", Table(header, rows).csv())
        table = self.table()
        remarks = "\n".join(f"{remark}." for remark in self.remarks)
        write_text(out / "comparison.md", f"{remarks}\n\n{table.markdown()}\n\n{table.caption}\n")


def _who(judge: JsonObject | str) -> str:
    """A judge's name, and its own accuracy on scenes if it was checked."""
    if not isinstance(judge, dict):
        return str(judge)
    own = judge.get("check", {}).get("accuracy", {}).get(OVERALL)
    return judge.get("model", "–") + ("" if own is None else f" (right about {own:.2f} of scenes)")


def _format(entry: Difference | None) -> list[str]:
    if entry is None:
        return ["–", "–"]
    mark = " *" if entry.beyond_noise else ""
    return [f"{entry.difference:+.3f} [{entry.low:+.3f}, {entry.high:+.3f}]{mark}", entry.verdict]


def compare(folders: Sequence[Sequence[Path]]) -> Comparison:
    """Compares each side with the first.

    Args:
        folders: by side, the folders of its runs' results. Runs are paired by their place, so seeds come in one order.

    Raises:
        ValueError: fewer than two sides, sides of different numbers of runs, a folder without a result, or results of
            different benchmarks.
    """
    if len(folders) < 2:
        raise ValueError(f"A comparison needs two sides or more, not {len(folders)}.")
    counts = [len(side) for side in folders]
    if len(set(counts)) > 1 or not counts[0]:
        raise ValueError(f"All sides of a comparison need equally many runs, which are paired; they have {counts}.")
    names = _side_names(folders)
    sides = [Side(name, [read_result(run) for run in runs]) for name, runs in zip(names, folders, strict=True)]
    benchmarks = {result.benchmark for side in sides for result in side.results}
    if len(benchmarks) > 1:
        raise ValueError(f"The results are of different benchmarks: {', '.join(sorted(benchmarks))}.")
    if not sides[0].results[0].measures:
        raise ValueError(f"{folders[0][0]} has only scores of whole sets, which cannot be compared prompt by prompt.")
    return Comparison(sides, _differences(sides), _remarks(sides, folders))


def mean_score(results: Sequence[Result], measure: Measure) -> Estimate | None:
    """A measure's mean over runs: with several, the runs are the sample and the prompts are fixed."""
    shared = _shared(results, measure)
    values = [[[result.values[key] for key in group] for result in results] for group in shared.groups]
    return intervals.score(values, results[0].bounds, shared.weights)


def paired_difference(results: Sequence[Result], baseline: Sequence[Result], measure: Measure) -> Estimate | None:
    """The mean difference: runs are paired by their place, and prompts by their key."""
    shared = _shared([*results, *baseline], measure)
    pairs = list(zip(results, baseline, strict=True))
    bounds = baseline[0].bounds
    low, high = bounds or (0.0, 1.0)
    values = [[[one.values[key] - two.values[key] for key in group] for one, two in pairs] for group in shared.groups]
    estimate = intervals.difference(values, high - low, shared.weights)
    if estimate is None or bounds is None:
        return estimate
    return estimate._replace(low=max(estimate.low, low - high), high=min(estimate.high, high - low))


def _shared(results: Sequence[Result], measure: Measure) -> Measure:
    """The measure, reduced to prompts that all results have."""
    return measure.known([result.values for result in results])


def _differences(sides: Sequence[Side]) -> list[Difference]:
    """All contrasts. The primary one is of the second side: its overall score, or the last one of the first part."""
    baseline = sides[0].results
    found: list[tuple[Measure, Side, Estimate]] = []
    for side in sides[1:]:
        for measure in baseline[0].measures:
            estimate = paired_difference(side.results, baseline, measure)
            if estimate is not None:
                found.append((measure, side, estimate))
    part = baseline[0].measures[0].part
    candidates = [n for n, (measure, side, _) in enumerate(found) if measure.part == part and side is sides[1]]
    overall = [n for n in candidates if found[n][0].name == OVERALL]
    primary = next(iter(overall or candidates[-1:]), None)
    p_values = correct([estimate.p_value for _, _, estimate in found], primary)
    return [
        Difference(
            measure.name,
            measure.part,
            side.name,
            *estimate[:3],
            len(set(chain(*_shared([*side.results, *baseline], measure).groups))),
            number == primary,
            p_value,
            intervals.beyond_noise(p_value),
            intervals.verdict(estimate, p_value, f"{estimate.largest:.3f}", measure.less_is_better),
        )
        for number, ((measure, side, estimate), p_value) in enumerate(zip(found, p_values, strict=True))
    ]


def correct(p_values: Sequence[float], primary: int | None) -> list[float]:
    """Holm's correction of all p-values but the primary contrast's."""
    corrected = intervals.holm([p_value for number, p_value in enumerate(p_values) if number != primary])
    if primary is not None:
        corrected.insert(primary, p_values[primary])
    return corrected


def _side_names(folders: Sequence[Sequence[Path]]) -> list[str]:
    """The last parts of the folders that a side's runs share, or else of its first run; as many as tell them apart."""
    shared = [Path(os.path.commonpath([run.resolve() for run in side])) for side in folders]
    unlike = len(set(shared)) == len(shared)
    return _short_names(shared if unlike else [side[0].resolve() for side in folders])


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{folder} ({number})" for number, folder in enumerate(folders)]


def _remarks(sides: Sequence[Side], folders: Sequence[Sequence[Path]]) -> list[str]:
    """Whatever makes the comparison less than one of the same prompts from the same noise by the same judge."""
    runs = len(folders[0])
    remarks = [ONE_RUN] if runs == 1 else [f"{runs} runs a side; the prompts are fixed"]
    for side in sides:
        for text, count in Counter(result.remark for result in side.results).items():
            remarks.append(f"{side.name}: {text}" + (f" ({count} runs)" if count > 1 else ""))
    for side in sides[1:]:
        for pair in zip(sides[0].results, side.results, strict=True):
            remarks += [f"{side.name} {text}" for text in _unlike(*pair, sides[0].name)]
    return list(dict.fromkeys(remarks))


def _protocol(result: Result) -> JsonObject:
    """What scores depend on, by name; the judge's name, template and rule each under one of its own."""
    settings = {key: value for key, value in result.settings.items() if key not in _NO_PROTOCOL}
    judge = settings.pop("judge", None)
    if not isinstance(judge, dict):
        return {**settings, "judge": judge}
    return {**settings, **{f"judge's {key}": value for key, value in judge.items() if key not in ("judge", "check")}}


def _unlike(first: Result, other: Result, name: str) -> list[str]:
    unshared = set(first.values) ^ set(other.values)
    found = [f"and {name}: {len(unshared)} prompts are scored in only one of them"] if unshared else []
    settings = [_protocol(result) for result in (first, other)]
    differing = [key for key in {**settings[0], **settings[1]} if settings[0].get(key) != settings[1].get(key)]
    sampling = [result.settings.get("sampling", {}) for result in (first, other)]
    differing += [key for key in _NOISE if sampling[0].get(key) != sampling[1].get(key)]
    return [*found, f"differs from {name} in {', '.join(differing)}"] if differing else found
