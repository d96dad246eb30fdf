"""GenEval on a folder of images: sampling in the official layout, judging, and the official results and summary.

OUT/
  images/00000/metadata.jsonl, images/00000/samples/00000.png
  results.jsonl           a line a judged image, as the official summary reads it
  summary.json            the official figures
  ledger.jsonl            what the models said, for a second run
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track

from ...io.files import sha256, write_text
from ...io.images import UnreadableImageError, read_image
from ...io.jsonl import Ledger, work_key, write_lines
from ..layout import find_samples, make_jobs, sample_name, write_records
from ..report import OVERALL, Measure, Result, Tally, summarize
from ..sampling import Sampler, read_sampling, sample_images
from .colors import BACKGROUND, DEFAULT_CLIP, ClipColors
from .detector import DEFAULT_DETECTOR, Mask2FormerDetector
from .judging import JudgingOptions, judge
from .records import OFFICIAL_SHA256, TAGS, PromptFile, Record
from .summary import summarize_rows

UNIT = "Share of images that show what the prompt asks for."
ANY = "any image"
"""The column for prompts of which at least one image is correct."""


@dataclass(frozen=True)
class ScorerOptions:
    """The official scorer's options: names of the models, thresholds, and how objects are cut out for CLIP."""

    detector: str = DEFAULT_DETECTOR
    clip_model: str = DEFAULT_CLIP
    judging: JudgingOptions = field(default_factory=JudgingOptions)
    background: str = BACKGROUND
    crop: bool = True


class Scorer:
    """Judges images by record.

    Args:
        options: models and thresholds.
        device: where to compute; None is cuda where there is one.
    """

    def __init__(self, options: ScorerOptions, device: str | None = None) -> None:
        self.options = options
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.detector = Mask2FormerDetector(options.detector, device)
        self.colors = ClipColors(options.clip_model, device, options.background, options.crop)

    def __call__(self, path: Path, record: Record) -> dict[str, Any]:
        """The outcome for an image: `correct`, `reason`, `details` of the kept instances, and colors.

        Raises:
            UnreadableImageError: the file does not open.
        """
        image = read_image(path)
        detections, masks = self.detector(image)

        def colors_of(chosen: Sequence[int]) -> list[str]:
            boxes = [detections[index].box for index in chosen]
            return self.colors(image, detections[chosen[0]].label, boxes, [masks[index] for index in chosen])

        verdict = judge(record, detections, colors_of, self.options.judging)
        details = {
            label: [[*detections[index].box, detections[index].score] for index in indices]
            for label, indices in verdict.kept.items()
        }
        colors = [[detections[index].label, color] for index, color in verdict.colors.items()]
        return {"correct": verdict.correct, "reason": verdict.reason, "details": details, "colors": colors}


class _Image(NamedTuple):
    """An image that should be there, and where it is."""

    prompt_index: int
    sample_index: int
    path: Path | None


def sample(prompts: PromptFile, sampler: Sampler, out: Path) -> None:
    """Makes the images that are not there yet under `out/images`, with the prompts' records."""
    images = out / "images"
    texts = {index: record.prompt for index, record in enumerate(prompts.records)}
    sample_images(sampler, make_jobs(images, texts, sampler.images_per_prompt), out)
    write_records(images, dict(enumerate(prompts.raw)))


def score(
    prompts: PromptFile,
    options: ScorerOptions,
    out: Path,
    images: Path | None = None,
    images_per_prompt: int | None = None,
    device: str | None = None,
    partial: bool = False,
) -> Result:
    """Judges the images and writes results, official summary and the result's files in `out`.

    Args:
        prompts: the prompt file.
        options: models and thresholds.
        out: folder for the results, with the record of sampling.
        images: where the images are; None is `out/images`.
        images_per_prompt: how many there should be; None is as many as were sampled.
        device: where to compute; None is cuda where there is one.
        partial: give overall numbers even if images are missing.

    Raises:
        ValueError: the images belong to other prompts.
    """
    root = images or out / "images"
    sampling = read_sampling(out)
    count = images_per_prompt or int(sampling.get("images_per_prompt", 4))
    samples = find_samples(root, range(len(prompts.records)), count)
    _check_records(root, prompts)
    tally = Tally(expected=len(prompts.records) * count, ignored=samples.others)
    wanted = [
        _Image(index, number, samples.paths.get((index, number)))
        for index in range(len(prompts.records))
        for number in range(count)
    ]
    rows = _judge_all(wanted, prompts, options, out, device, tally)
    write_lines(out / "results.jsonl", rows)
    write_text(out / "summary.json", json.dumps(summarize_rows(rows), indent=1))
    settings = {
        "prompts": len(prompts.records),
        "prompts_sha256": prompts.sha256,
        "official_prompts": prompts.sha256 == OFFICIAL_SHA256,
        "scorer": asdict(options),
        "sampling": sampling,
    }
    result = summarize("geneval", tally, measures(prompts.records), settings, UNIT, partial)
    result.write(out)
    return result


def _check_records(root: Path, prompts: PromptFile) -> None:
    """Refuses images that were made for other prompts, as their own records say."""
    for index, raw in enumerate(prompts.raw):
        path = root / f"{index:05d}" / "metadata.jsonl"
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not one JSON object: {error.msg}.") from error
        if found != raw:
            raise ValueError(
                f"{path} is for the prompt {found.get('prompt')!r}; the prompt file has {raw['prompt']!r} there."
            )


def _judge_all(
    wanted: Sequence[_Image], prompts: PromptFile, options: ScorerOptions, out: Path, device: str | None, tally: Tally
) -> list[dict[str, Any]]:
    """A results line an image that could be judged; models are loaded only if some image is new."""
    ledger = Ledger(out / "ledger.jsonl")
    scorer: Scorer | None = None
    rows = []
    for image in track(wanted, "scoring", console=Console(stderr=True)):
        name = sample_name(image.prompt_index, image.sample_index)
        if image.path is None:
            tally.problem("missing images", name)
            continue
        record, raw = prompts.records[image.prompt_index], prompts.raw[image.prompt_index]
        key = work_key(image=sha256(image.path.read_bytes()), record=raw, scorer=asdict(options))
        outcome = ledger.get(key)
        if outcome is None:
            scorer = scorer or Scorer(options, device)
            try:
                ledger.add(key, scorer(image.path, record))
            except UnreadableImageError as error:
                tally.problem("unreadable images", f"{name} ({error})")
                continue
            outcome = ledger.get(key)
        assert outcome is not None
        tally.add({str(image.prompt_index): float(outcome["correct"])})
        rows.append(_row(image, raw, outcome))
    _add_any(tally)
    return rows


def _add_any(tally: Tally) -> None:
    """Adds for each prompt whether any of its images is correct."""
    for key, scores in list(tally.scores.items()):
        tally.scores[f"{key}/{ANY}"] = [max(scores)]


def _row(image: _Image, raw: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    """A line of the official results file, and what we add to it."""
    return {
        "filename": str(image.path),
        "tag": raw["tag"],
        "prompt": raw["prompt"],
        "correct": outcome["correct"],
        "reason": outcome["reason"],
        "metadata": json.dumps(raw),
        "details": json.dumps(outcome["details"]),
        "prompt_index": image.prompt_index,
        "sample_index": image.sample_index,
        "colors": outcome["colors"],
    }


def measures(records: Sequence[Record]) -> list[Measure]:
    """A row a task, and their plain mean, which is called overall only if all six tasks are there."""
    by_tag: dict[str, list[str]] = {}
    for index, record in enumerate(records):
        by_tag.setdefault(record.tag, []).append(str(index))
    mean = OVERALL if set(by_tag) == set(TAGS) else "mean of tasks"
    groups: dict[str, tuple[tuple[str, ...], ...]] = {tag: (tuple(keys),) for tag, keys in by_tag.items()}
    groups[mean] = tuple(tuple(keys) for keys in by_tag.values())
    found = [Measure(name, keys, "images") for name, keys in groups.items()]
    return found + [
        Measure(name, tuple(tuple(f"{key}/{ANY}" for key in group) for group in keys), ANY)
        for name, keys in groups.items()
    ]
