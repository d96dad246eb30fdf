"""What a benchmark comes to: measures over prompts with intervals, what is missing, and the files that say so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..io.files import JsonObject, read_json, write_json, write_text
from ..io.versions import versions
from ..reporting import intervals
from ..reporting.intervals import Estimate
from ..reporting.table import Table

FORMAT = "semantic-routing-evaluation/1"
MAX_MISSING = 0.01
"""A result with a larger share of its images missing is incomplete."""
OVERALL = "overall"
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Measure:
    """The plain mean over `groups` of each group's mean over its prompts.

    `name` is the row of the table, `part` its column.
    """

    name: str
    groups: tuple[tuple[str, ...], ...]
    """Keys of values; a single group makes the measure a mean over prompts."""
    part: str = "all"
    weights: tuple[tuple[float, ...], ...] = ()
    """By group and key, where a prompt counts by more than one, say by its number of questions."""
    less_is_better: bool = False
    """For losses."""

    def known(self, values: Sequence[Mapping[str, float]]) -> "Measure":
        """The measure of those keys that all results have."""
        kept = [[key for key in group if all(key in each for each in values)] for group in self.groups]
        weights = [dict(zip(*pair, strict=True)) for pair in zip(self.groups, self.weights, strict=False)]
        return replace(
            self,
            groups=tuple(map(tuple, kept)),
            weights=tuple(tuple(of[key] for key in group) for of, group in zip(weights, kept, strict=False)),
        )


@dataclass(frozen=True)
class Row:
    """A measure's outcome. `score` is None where a group has no value, or where the result is incomplete."""

    name: str
    part: str
    score: float | None
    low: float | None
    high: float | None
    prompts: int
    images: int


@dataclass
class Tally:
    """Scores of images as they come in, and whatever kept others from being scored."""

    expected: int
    """Images that there should be."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    """By prompt key, one an image."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """By kind, the names of the images, each of which has no score."""
    ignored: list[str] = field(default_factory=list)
    """Files that do not belong to the benchmark."""
    scored: int = 0

    def add(self, scores: Mapping[str, float]) -> None:
        """Takes one image's scores, by key."""
        self.scored += 1
        for key, score in scores.items():
            self.scores.setdefault(key, []).append(score)

    def problem(self, kind: str, name: str) -> None:
        """Takes note of an image without a score."""
        self.problems.setdefault(kind, []).append(name)

    @property
    def complete(self) -> bool:
        """Whether at most `MAX_MISSING` of the images lack a score."""
        return self.scored > 0 and self.expected - self.scored <= MAX_MISSING * self.expected

    def describe(self) -> str:
        """One line: how many images were scored, and which were not and why."""
        parts = [f"{self.scored} of {self.expected} images scored"]
        parts += [f"{len(names)} {kind}: {_some(names)}" for kind, names in self.problems.items()]
        if self.ignored:
            parts.append(f"{len(self.ignored)} other files left aside: {_some(self.ignored)}")
        return ("" if self.complete else "INCOMPLETE: ") + "; ".join(parts)


@dataclass(frozen=True)
class Result:
    """A scored benchmark.

    `settings` says all that a reader needs to repeat it; `values` holds each prompt's mean over its images.
    """

    benchmark: str
    complete: bool
    remark: str
    settings: JsonObject
    unit: str
    measures: list[Measure]
    values: dict[str, float]
    rows: list[Row]
    problems: dict[str, list[str]]

    bounds: tuple[float, float] | None = (0.0, 1.0)
    """The lowest and the highest score that there can be; None where there are none."""

    def write(self, out: Path) -> None:
        """Writes `result.json`, `result.csv` and `result.md`."""
        write_json(out / "result.json", {"format": FORMAT, **asdict(self)})
        write_text(out / "result.csv", self.rows_table().csv())
        write_text(out / "result.md", self.markdown())

    def markdown(self) -> str:
        """How many images were scored, the table, and what its numbers are."""
        table = self.table()
        return f"{self.remark}.\n\n{table.markdown()}\n\n{table.caption}\n"

    def rows_table(self) -> Table:
        """A line a row, in full precision; the column `status` is the same in all."""
        status = "complete" if self.complete else "incomplete"
        rows = [["" if value is None else str(value) for value in (*asdict(row).values(), status)] for row in self.rows]
        return Table([*Row.__dataclass_fields__, "status"], rows)

    def table(self) -> Table:
        """A line a name, and a column a part."""
        parts = list(dict.fromkeys(row.part for row in self.rows))
        by_place = {(row.name, row.part): row for row in self.rows}
        lines = []
        for name in dict.fromkeys(row.name for row in self.rows):
            rows = [by_place.get((name, part)) for part in parts]
            prompts = max(row.prompts for row in rows if row)
            images = max(row.images for row in rows if row)
            lines.append([name, *map(format_row, rows), str(prompts), str(images)])
        caption = f"{self.unit} Brackets: 95 % intervals for these images' checkpoint; the prompts are the sample."
        caption += judged_by(self.settings)
        return Table(["", *parts, "prompts", "images"], lines, caption, title=f"{self.benchmark}: {self.remark}")


def judged_by(settings: JsonObject) -> str:
    """Who judged, how well that judge knows scenes, and how far judges agree; nothing where no model judged."""
    judge = settings.get("judge")
    if not isinstance(judge, dict):
        return ""
    revision = f" ({judge['revision']})" if judge.get("revision") else ""
    text = f" Judge: {judge.get('model', judge.get('judge'))}{revision}"
    if len(judge.get("reported", ())) > 1:
        text += f", which reported itself as {' and as '.join(judge['reported'])}"
    known = {name: score for name, score in judge.get("check", {}).get("accuracy", {}).items() if score is not None}
    if known:
        skills = ", ".join(f"{name} {score:.2f}" for name, score in known.items() if name != OVERALL)
        text += f"; its own accuracy on scenes: {known.get(OVERALL, math.nan):.2f} ({skills})"
    if settings.get("probability_listed"):
        mean, least = (settings["probability_listed"][key] for key in ("mean", "least"))
        text += f"; the tokens that it listed hold {mean:.3f} of the probability on average, {least:.3f} at least"
    for entry in settings.get("agreement", []):
        kappa = "" if entry["kappa"] is None else f", kappa {entry['kappa']:.2f}"
        share = "none of the questions" if entry["agreement"] is None else f"{entry['agreement']:.3f} of the questions"
        text += f"; {entry['judges'][1]} agrees with {entry['judges'][0]} on {share}{kappa}"
    return text + "."


def format_row(row: Row | None) -> str:
    """Score, and its interval if it has one; a dash where there is no score."""
    if row is None or row.score is None:
        return format_score(None)
    if row.low is None or row.high is None:
        return f"{row.score:.3f}"
    return format_score(Estimate(row.score, row.low, row.high))


def format_score(score: Estimate | None) -> str:
    """Score and interval, three digits each; a dash where there is none."""
    return f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]" if score else "–"


def summarize(
    benchmark: str,
    tally: Tally,
    measures: Sequence[Measure],
    settings: JsonObject,
    unit: str,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    partial: bool = False,
    others: Sequence[Row] = (),
) -> Result:
    """Turns images' scores into a result.

    Args:
        benchmark: its name.
        tally: of all images.
        measures: what to report; the ones named "overall" are withheld from an incomplete result.
        settings: of sampling and scoring; the versions of the libraries are added.
        unit: what a score is, in a sentence.
        bounds: the lowest and the highest score that there can be; None where there are none.
        partial: give the overall numbers of an incomplete result all the same.
        others: further rows, that are no means over prompts.
    """
    values = {key: sum(scores) / len(scores) for key, scores in tally.scores.items()}
    images = {key: len(scores) for key, scores in tally.scores.items()}
    rows = []
    for measure in measures:
        withheld = measure.name == OVERALL and not tally.complete and not partial
        rows.append(_row(measure, values, images, bounds, withheld))
    withheld = not tally.complete and not partial
    rows += [replace(row, score=None) if withheld and row.name == OVERALL else row for row in others]
    return Result(
        benchmark=benchmark,
        complete=tally.complete,
        remark=tally.describe(),
        settings={**settings, "versions": versions()},
        unit=unit,
        measures=list(measures),
        values=values,
        rows=rows,
        problems={**tally.problems, **({"left aside": tally.ignored} if tally.ignored else {})},
        bounds=bounds,
    )


def _row(
    measure: Measure,
    values: Mapping[str, float],
    images: Mapping[str, int],
    bounds: tuple[float, float] | None,
    withheld: bool,
) -> Row:
    known = measure.known([values])
    scores = [[values[key] for key in group] for group in known.groups]
    outcome = None if withheld else intervals.score(scores, bounds, known.weights)
    score, low, high = outcome[:3] if outcome else (None, None, None)
    keys = {key for group in known.groups for key in group}
    return Row(measure.name, measure.part, score, low, high, len(keys), sum(images[key] for key in keys))


def read_result(path: Path) -> Result:
    """A result by its file, or by the folder that it lies in.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    file = path / "result.json" if path.is_dir() else path
    try:
        record = read_json(file)
    except FileNotFoundError as error:
        raise ValueError(f"There is no result.json in {path}; score the benchmark first.") from error
    seen = record.pop("format", None) if isinstance(record, dict) else None
    if not isinstance(record, dict) or seen != FORMAT:
        raise ValueError(f"{file} has format {seen!r}, not {FORMAT!r}.")
    measures = [
        Measure(
            entry["name"],
            tuple(map(tuple, entry["groups"])),
            entry["part"],
            tuple(map(tuple, entry.get("weights", ()))),
            entry.get("less_is_better", False),
        )
        for entry in record.pop("measures")
    ]
    limits = record.pop("bounds", (0.0, 1.0))
    bounds = None if limits is None else tuple(limits)
    rows = [Row(**entry) for entry in record.pop("rows")]
    return Result(measures=measures, rows=rows, bounds=bounds, **record)


def _some(names: Sequence[str]) -> str:
    """The first names, the very first with its reason in brackets, and that there are more."""
    shown = ", ".join([*names[:1], *(name.partition(" (")[0] for name in names[1:NAMES_SHOWN])])
    return shown if len(names) <= NAMES_SHOWN else f"{shown}, …"
