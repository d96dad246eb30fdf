"""Runs any benchmark: samples, resumes, judges, counts what failed, reports.

OUT/
  sampling.json, images/            see `sampling`
  results.jsonl                     a line an image
  result.json, result.csv, result.md
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..io.files import JsonObject, sha256
from ..io.jsonl import Ledger, work_key, write_lines
from .benchmark import FAILED, MISSING, OK, UNRESOLVED, Benchmark, ImageFile, Judged, Outcome, value_key
from .image_files import Place
from .result import Result, Tally, summarize
from .sampler import Job, Sampler, read_sampling

IMAGES = "images"
RESULTS = "results.jsonl"


def sample(benchmark: Benchmark, sampler: Sampler, out: Path) -> None:
    """Makes the images that are not there yet under `out/images`; several processes share the work.

    Raises:
        ValueError: the folder holds images that were made otherwise.
    """
    from .sampling import is_main_process, sample_images  # torch, which scoring by an endpoint does without

    images = out / IMAGES
    jobs = [
        Job(images / benchmark.files.name(Place(index, number)), prompt, index, number)
        for index, prompt in benchmark.prompts.items()
        for number in range(sampler.images_per_prompt)
    ]
    sample_images(sampler, jobs, out)
    if is_main_process():
        benchmark.files.write_records(images)


def score(
    benchmark: Benchmark,
    out: Path,
    images: Path | None = None,
    images_per_prompt: int | None = None,
    partial: bool = False,
) -> Result:
    """Judges the images and writes `results.jsonl` and the result's files in `out`.

    Args:
        benchmark: what to score.
        out: folder for the results.
        images: where the images are; None is `out/images`.
        images_per_prompt: how many there should be; None is as many as were sampled, or the benchmark's default.
        partial: give overall scores even if images are missing.

    Raises:
        ValueError: there are no images, or they belong to other prompts.
    """
    images = images or out / IMAGES
    sampling = sampling_of(images)
    count = images_per_prompt or sampling.get("images_per_prompt", benchmark.sampler.images_per_prompt)
    files, others = find_images(benchmark, images, count)
    outcomes = judge_images(benchmark, [file for file in files if file.path.is_file()], out)
    if any(outcome.status == OK for outcome in outcomes.values()):
        benchmark.after_judging(out)
    judged = [Judged(file, outcomes.get(_place(file), Outcome(status=MISSING))) for file in files]
    tally = count_scores(benchmark, judged, others)
    lines = [line for entry in judged if (line := benchmark.line(entry)) is not None]
    write_lines(out / RESULTS, lines)
    benchmark.finish(lines, tally, out)
    rows = benchmark.rows(judged)
    settings = {"prompts": len(benchmark.prompts), **benchmark.settings(judged), "sampling": sampling}
    result = summarize(
        benchmark.name(), tally, benchmark.measures(), settings, benchmark.unit, benchmark.bounds, partial, rows
    )
    result.write(out)
    return result


def sampling_of(images: Path) -> JsonObject:
    """How a folder's images were made, if `sample` made them; nothing of images that others made."""
    return read_sampling(images.parent) if images.name == IMAGES else {}


def find_images(benchmark: Benchmark, folder: Path, count: int) -> tuple[list[ImageFile], list[str]]:
    """The images that there should be, `count` of each prompt, whether or not they are there; and foreign files."""
    found = benchmark.files.find(folder, benchmark.known_prompts(), count)
    places = [Place(index, number) for index in benchmark.prompts for number in range(count)]
    return [_file(benchmark, folder, place, found.paths.get(place)) for place in places], found.others


def judge_images(benchmark: Benchmark, files: Sequence[ImageFile], out: Path) -> dict[Place, Outcome]:
    """What becomes of each image. Nothing is judged twice; only verdicts, not failures, are taken from the ledger."""
    ledger = Ledger(out / benchmark.ledger) if benchmark.ledger else None
    keys = question_keys(benchmark, files)
    outcomes: dict[str, Outcome] = {}
    pending: dict[str, ImageFile] = {}
    for file, own in keys.items():
        for number, key in enumerate(own):
            entry = ledger.get(key) if ledger else None
            if entry is not None and entry.get("status", OK) == OK:
                outcomes[key] = Outcome.from_entry(entry)
            else:
                pending[key] = file._replace(question=number)
    outcomes |= judge_pending(benchmark, pending, ledger)
    nothing = Outcome(status=FAILED, error="no answer came")
    return {
        _place(file): benchmark.combine(file.prompt, [outcomes.get(key, nothing) for key in own])
        for file, own in keys.items()
    }


def question_keys(benchmark: Benchmark, files: Sequence[ImageFile]) -> dict[ImageFile, list[str]]:
    """By image, a key for each of its questions, by which its verdict is kept."""
    keys = {}
    for file in files:
        image, numbers = sha256(file.path.read_bytes()), range(benchmark.num_questions(file.prompt))
        keys[file] = [work_key(image=image, **benchmark.identity(file.prompt, number)) for number in numbers]
    return keys


def judge_pending(benchmark: Benchmark, pending: Mapping[str, ImageFile], ledger: Ledger | None) -> dict[str, Outcome]:
    """Judges what has no verdict yet, and keeps each verdict as it comes."""
    judged: dict[str, Outcome] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("judging", total=len(pending))
        for key, outcome in benchmark.judge_all(pending):
            judged[key] = outcome
            if ledger:
                ledger.add(key, outcome.entry())
            progress.update(task, completed=len(judged))
    return judged


def count_scores(benchmark: Benchmark, judged: Sequence[Judged], others: list[str]) -> Tally:
    """Scores by prompt, and whatever kept images from being scored."""
    tally = Tally(expected=len(judged), ignored=others)
    for image, outcome in judged:
        scores = benchmark.scores(outcome.found) if outcome.status == OK else None
        if scores is not None:
            tally.add({value_key(image.prompt, part): score for part, score in scores.items()})
        else:
            status = UNRESOLVED if outcome.status == OK else outcome.status
            tally.problem(status, f"{image.name} ({outcome.error})" if outcome.error else image.name)
    return tally


def _file(benchmark: Benchmark, folder: Path, place: Place, path: Path | None) -> ImageFile:
    """The image at a place, under the name that it has, or that it should have."""
    path = path or folder / benchmark.files.name(place)
    return ImageFile(*place, str(path.relative_to(folder) if path.is_relative_to(folder) else path), path)


def _place(file: ImageFile) -> Place:
    return Place(file.prompt, file.sample)
