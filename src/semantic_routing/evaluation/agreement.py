"""Whether judges agree: the share of questions that two of them decide alike, and Cohen's kappa."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..io.files import JsonObject, write_json
from ..io.jsonl import read_lines, write_lines
from .benchmark import OK, Json
from .questions import QuestionBenchmark
from .result import Result
from .runner import IMAGES, RESULTS, score


@dataclass(frozen=True)
class Agreement:
    """How two judges' decisions compare.

    Args:
        questions: that both decided.
        agreement: share of them that they decided alike.
        kappa: (agreement − chance) / (1 − chance), Cohen's, 1960; None where both always decide the same one thing.
        disagreements: by image and question, what each decided.
    """

    questions: int
    agreement: float | None
    kappa: float | None
    disagreements: list[JsonObject]


def compare_decisions(first: dict[tuple[str, str], str], second: dict[tuple[str, str], str]) -> Agreement:
    """Compares decisions by (image, question); questions that only one judge decided are left out."""
    both = [key for key in first if key in second]
    if not both:
        return Agreement(0, None, None, [])
    unlike = [
        {"image": key[0], "question": key[1], "first": first[key], "second": second[key]}
        for key in both
        if first[key] != second[key]
    ]
    shares = [Counter(decisions[key] for key in both) for decisions in (first, second)]
    chance = sum(shares[0][decision] * shares[1][decision] for decision in shares[0]) / len(both) ** 2
    agreement = 1 - len(unlike) / len(both)
    return Agreement(len(both), agreement, None if chance == 1 else (agreement - chance) / (1 - chance), unlike)


def score_by_all(
    benchmark: QuestionBenchmark, out: Path, images: Path | None, images_per_prompt: int | None, partial: bool
) -> list[Result]:
    """Scores with each judge: the first one's result is in `out`, another's in `out/judge-2` and so on.

    `agreement.json` and `disagreements-2.jsonl` in `out` say how far each judge agrees with the first, and so do the
    settings of the results.
    """
    folders = [out, *(out / f"judge-{number}" for number in range(2, len(benchmark.options.each()) + 1))]
    results = []
    for options, folder in zip(benchmark.options.each(), folders, strict=True):
        one = benchmark.judged_by(options)
        results.append(score(one, folder, images or out / IMAGES, images_per_prompt, partial))
    decided = [_decisions(benchmark, folder) for folder in folders]
    found = []
    for number, (other, result) in enumerate(zip(decided[1:], results[1:], strict=True), 2):
        agreement = compare_decisions(decided[0], other)
        write_lines(out / f"disagreements-{number}.jsonl", agreement.disagreements)
        judges = [each.settings["judge"]["model"] for each in (results[0], result)]
        numbers = {"questions": agreement.questions, "agreement": agreement.agreement, "kappa": agreement.kappa}
        found.append({"judges": judges, **numbers})
    if found:
        write_json(out / "agreement.json", found)
        for result, folder in zip(results, folders, strict=True):
            result.settings["agreement"] = found
            result.write(folder)
    return results


def _decisions(benchmark: QuestionBenchmark, folder: Path) -> dict[tuple[str, str], str]:
    """What a judge decided, by image and question, as its results say."""

    def of(line: Json) -> dict[str, str]:
        return dict(benchmark.decisions(line)) if line["status"] == OK else {}

    lines = read_lines(folder / RESULTS)
    return {(line["image"], question): decision for line in lines for question, decision in of(line).items()}
