"""Runs of one benchmark side by side: differences prompt by prompt, and which of them are beyond noise."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..io.files import write_text
from ..reporting.intervals import estimate
from .report import Measure, Result, format_row, read_result

# Settings that decide which noise an image starts from.
_NOISE = ("seed", "same_noise", "images_per_prompt", "size")


@dataclass(frozen=True)
class Difference:
    """Another run's score minus the first's, over the prompts that both have.

    `beyond_noise` says that the 95 % interval of the paired difference leaves out 0.
    """

    name: str
    part: str
    run: str
    difference: float
    low: float
    high: float
    prompts: int
    beyond_noise: bool


@dataclass(frozen=True)
class Comparison:
    """Runs with their names, the first of which is the one that others are compared with."""

    names: list[str]
    results: list[Result]
    differences: list[Difference]
    remarks: list[str]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and lines: a line a measure; of each other run the score and its difference."""
        first, *others = self.names
        header = ["", first, *(title for name in others for title in (name, f"{name} − {first}"))]
        by_place = {(entry.name, entry.part, entry.run): entry for entry in self.differences}
        rows = [{(row.name, row.part): row for row in result.rows} for result in self.results]
        lines = []
        for row in self.results[0].rows:
            place = (row.name, row.part)
            line = [row.name if row.part == "all" else f"{row.name} · {row.part}", format_row(row)]
            for name, other in zip(others, rows[1:], strict=True):
                line += [format_row(other.get(place)), _format(by_place.get((*place, name)))]
            lines.append(line)
        return header, lines

    def markdown(self) -> str:
        """What to mind, then the table."""
        header, lines = self.cells()
        table = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines)]
        remarks = [f"{remark}." for remark in self.remarks]
        return "\n".join([*remarks, "", *table, "", CAPTION, ""])

    def table(self) -> Table:
        """The same for a terminal."""
        header, lines = self.cells()
        table = Table(title=escape("; ".join(self.remarks)), caption=CAPTION)
        for column, title in enumerate(header):
            table.add_column(title, justify="right" if column else "left")
        for line in lines:
            table.add_row(*map(escape, line))
        return table

    def write(self, out: Path) -> None:
        """Writes `comparison.json`, `comparison.csv` and `comparison.md`."""
        record = {"runs": self.names, "remarks": self.remarks, "differences": list(map(asdict, self.differences))}
        write_text(out / "comparison.json", json.dumps(record, indent=1, ensure_ascii=False))
        write_text(out / "comparison.md", self.markdown())
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(Difference.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, self.differences))
        write_text(out / "comparison.csv", buffer.getvalue())


CAPTION = (
    "Differences are means over the same prompts; * marks those whose 95 % interval leaves out 0. "
    "Of twenty that are noise, one gets a mark too."
)


def _format(entry: Difference | None) -> str:
    if entry is None:
        return "–"
    mark = " *" if entry.beyond_noise else ""
    return f"{entry.difference:+.3f} [{entry.low:+.3f}, {entry.high:+.3f}]{mark}"


def compare(folders: Sequence[Path]) -> Comparison:
    """Compares each result with the first.

    Raises:
        ValueError: fewer than two, a folder without a result, or results of different benchmarks.
    """
    if len(folders) < 2:
        raise ValueError(f"A comparison needs two results or more, not {len(folders)}.")
    results = [read_result(folder) for folder in folders]
    benchmarks = {result.benchmark for result in results}
    if len(benchmarks) > 1:
        raise ValueError(f"The results are of different benchmarks: {', '.join(sorted(benchmarks))}.")
    names = _short_names(folders)
    differences = [
        entry
        for name, result in zip(names[1:], results[1:], strict=True)
        for measure in results[0].measures
        if (entry := paired_difference(measure, results[0], result, name)) is not None
    ]
    return Comparison(names, results, differences, _remarks(names, results))


def paired_difference(measure: Measure, first: Result, other: Result, name: str) -> Difference | None:
    """The difference of a measure over the prompts that both results have; None where a group has none."""
    shared = [[key for key in group if key in first.values and key in other.values] for group in measure.groups]
    outcome = estimate([[other.values[key] - first.values[key] for key in group] for group in shared])
    if outcome is None:
        return None
    prompts = len(set(chain(*shared)))
    return Difference(measure.name, measure.part, name, *outcome, prompts, outcome.beyond_noise)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(path)} ({number})" for number, path in enumerate(parts)]


def _remarks(names: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Whatever makes the comparison less than one of the same prompts from the same noise by the same judge."""
    remarks = [f"{name}: {result.remark}" for name, result in zip(names, results, strict=True)]
    first = results[0]
    for name, result in zip(names[1:], results[1:], strict=True):
        unshared = set(first.values) ^ set(result.values)
        if unshared:
            remarks.append(f"{len(unshared)} prompts are scored in only one of {names[0]} and {name}")
        keys = [key for key in {**first.settings, **result.settings} if key not in ("sampling", "versions", "prompts")]
        differing = [key for key in keys if first.settings.get(key) != result.settings.get(key)]
        sampling = [result.settings.get("sampling", {}) for result in (first, result)]
        differing += [key for key in _NOISE if sampling[0].get(key) != sampling[1].get(key)]
        if differing:
            remarks.append(f"{name} differs from {names[0]} in {', '.join(differing)}, so the pairs are not alike")
    return remarks
