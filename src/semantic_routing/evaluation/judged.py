"""What benchmarks with a judge have in common: find the images, ask, and tell judgments from failures."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..io.jsonl import Ledger, write_lines
from .judges import Form, Judge, Question, ask_all
from .judges.asking import Reader
from .layout import find_flat
from .report import Tally
from .sampling import read_sampling

LEDGER = "answers.jsonl"


class Judged(NamedTuple):
    """An image with its judgment, which may be a failure (see `ask_all`)."""

    prompt_index: int
    sample_index: int
    name: str
    outcome: dict[str, Any]


class Judgments(NamedTuple):
    """All images of a benchmark, judged or not."""

    judged: list[Judged]
    tally: Tally
    sampling: dict[str, Any]


def judge_images(
    judge: Judge,
    form: Form,
    texts: Mapping[int, str],
    read: Reader,
    out: Path,
    images: Path | None,
    images_per_prompt: int | None,
    retry_temperature: float,
) -> Judgments:
    """Asks about every image of every prompt; missing images and failed judgments are in the tally already.

    Args:
        judge: whom to ask.
        form: how.
        texts: what to ask, by prompt index.
        read: what an answer means.
        out: folder of the answers, and of the record of sampling.
        images: where the images are; None is `out/images`.
        images_per_prompt: how many there should be; None is as many as were sampled, or one.
        retry_temperature: see `ask_all`.
    """
    sampling = read_sampling(out)
    count = images_per_prompt or int(sampling.get("images_per_prompt", 1))
    samples = find_flat(images or out / "images", texts, count)
    tally = Tally(expected=len(texts) * count, ignored=samples.others)
    for index, number in ((index, number) for index in texts for number in range(count)):
        if (index, number) not in samples.paths:
            tally.problem("missing images", f"{index} sample {number}")
    places = sorted(samples.paths)
    questions = {samples.paths[place].name: Question(samples.paths[place], texts[place[0]]) for place in places}
    outcomes = ask_all(judge, form, questions, Ledger(out / LEDGER), read, retry_temperature)
    judged = [Judged(*place, samples.paths[place].name, outcomes[samples.paths[place].name]) for place in places]
    for image in judged:
        if image.outcome["status"] != "ok":
            tally.problem(image.outcome["status"], f"{image.name} ({image.outcome['error']})")
    return Judgments(judged, tally, sampling)


def judge_settings(judge: Judge, judged: list[Judged]) -> dict[str, Any]:
    """Who judged: by name, and by what answers said of their model."""
    said = Counter(str(image.outcome.get("about")) for image in judged if image.outcome["status"] == "ok")
    return {**judge.identity, "reported": dict(said)}


def write_judgments(judgments: Judgments, out: Path, describe: Callable[[Judged], dict[str, Any]]) -> None:
    """Writes `results.jsonl`: a line an image, with all that the judge said."""

    def lines() -> Iterator[dict[str, Any]]:
        for image in judgments.judged:
            place = {"image": image.name, "prompt_index": image.prompt_index, "sample_index": image.sample_index}
            yield {**place, **describe(image), **image.outcome}

    write_lines(out / "results.jsonl", lines())
