"""DrawBench prompts, scored by UnifiedReward 2.0: alignment, coherence and style, each from 1 to 5.

The prompt list is the user's; the headline is style, as in the paper.
"""

import csv
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..io.files import sha256
from .judged import judge_images, judge_settings, write_judgments
from .judges import Answer, AnswerError, Form, Judge
from .judges.asking import RETRY_TEMPERATURE
from .judges.base import Encoding
from .layout import flat_jobs
from .report import OVERALL, Measure, Result, summarize
from .sampling import Sampler, sample_images

logger = logging.getLogger(__name__)

NUM_PROMPTS = 200
PROMPT_FIELDS = ("prompt", "caption", "text", "instruction")
DIMENSIONS = ("alignment", "coherence", "style")
PARTS = ("style", "alignment", "coherence", "mean")
UNIT = "UnifiedReward, from 1 to 5; the headline is style."
MAX_TOKENS = 128

TEMPLATE = """\
You are presented with a generated image and its associated text caption. \
Your task is to analyze the image across multiple dimensions in relation to the caption. Specifically:
Provide overall assessments for the image along the following axes (each rated from 1 to 5):
- Alignment Score: How well the image matches the caption in terms of content.
- Coherence Score: How logically consistent the image is (absence of visual glitches, object distortions, etc.).
- Style Score: How aesthetically appealing the image looks, regardless of caption accuracy.

Output your evaluation using the format below:

Alignment Score (1-5): X
Coherence Score (1-5): Y
Style Score (1-5): Z

Your task is provided as follows:
Text Caption: [{caption}]"""
"""UnifiedReward 2.0's own words; another wording gives scores that do not compare."""

_SCORE = re.compile(
    r"^[ \t*\-]*(alignment|coherence|style) +score[ \t]*(?:\(1-5\))?[ \t*]*:[ \t*]*([+-]?(?:\d+(?:\.\d*)?|\.\d+))",
    re.IGNORECASE | re.MULTILINE,
)


class DrawPrompt(NamedTuple):
    """A prompt, and its category where the list gives one."""

    prompt: str
    category: str | None


@dataclass(frozen=True)
class DrawPrompts:
    """The list, in its order, and the file's SHA-256."""

    prompts: list[DrawPrompt]
    sha256: str


def read_prompts(path: Path) -> DrawPrompts:
    """Reads JSON (a list or an object of entries), JSON lines, CSV or TSV.

    An entry is a prompt, or has one under `prompt`, `caption`, `text` or `instruction`, and perhaps a `category`.

    Raises:
        ValueError: another form, or an entry without a prompt.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must be one of {', '.join(readers)}, not {path.suffix or 'without suffix'!r}.")
    entries = readers[path.suffix.lower()](path)
    prompts = [_prompt(entry, f"{path}, entry {number}") for number, entry in enumerate(entries)]
    if not prompts:
        raise ValueError(f"{path} holds no prompts.")
    if len(prompts) != NUM_PROMPTS:
        logger.warning("%s holds %d prompts; DrawBench has %d.", path, len(prompts), NUM_PROMPTS)
    return DrawPrompts(prompts, sha256(path.read_bytes()))


def _read_json(path: Path) -> list[Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if isinstance(record, dict):
        return list(record.values())
    if not isinstance(record, list):
        raise ValueError(f"{path} holds a {type(record).__name__}, not a list or an object of prompts.")
    return record


def _read_jsonl(path: Path) -> list[Any]:
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entries += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
    return entries


def _read_csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))


def _prompt(entry: Any, where: str) -> DrawPrompt:
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {type(entry).__name__}, not a prompt or an object.")
    fields = {str(key).strip().lower(): value for key, value in entry.items()}
    text = next((fields[name] for name in PROMPT_FIELDS if fields.get(name)), None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} has no prompt under any of {', '.join(PROMPT_FIELDS)}.")
    category = fields.get("category")
    return DrawPrompt(text, str(category) if category else None)


def parse_scores(reply: str) -> dict[str, float]:
    """The three scores of a reply, each the last of its name.

    Raises:
        AnswerError: one is not there, or not from 1 to 5.
    """
    found = {name.lower(): float(number) for name, number in _SCORE.findall(reply)}
    for name in DIMENSIONS:
        if name not in found:
            raise AnswerError(f"no {name} score in the reply {reply[:200]!r}")
        if not (math.isfinite(found[name]) and 1 <= found[name] <= 5):
            raise AnswerError(f"the {name} score is {found[name]}, not from 1 to 5")
    return {name: found[name] for name in DIMENSIONS}


def sample(prompts: DrawPrompts, sampler: Sampler, out: Path) -> None:
    """Makes the images that are not there yet as `out/images/INDEX_sample_I.png`."""
    named = {index: (str(index), entry.prompt) for index, entry in enumerate(prompts.prompts)}
    sample_images(sampler, flat_jobs(out / "images", named, sampler.images_per_prompt), out)


def score(
    prompts: DrawPrompts,
    judge: Judge,
    out: Path,
    images: Path | None = None,
    images_per_prompt: int | None = None,
    encoding: Encoding = "jpeg95",
    partial: bool = False,
) -> Result:
    """Asks the judge about the images and writes `results.jsonl` and the result's files in `out`.

    Args:
        prompts: the list.
        judge: a UnifiedReward model.
        out: folder for answers and results, with the record of sampling.
        images: where the images are; None is `out/images`.
        images_per_prompt: how many there should be; None is as many as were sampled, or one.
        encoding: of images on their way to an endpoint.
        partial: give overall numbers even if judgments are missing.
    """
    form = Form(MAX_TOKENS, encoding=encoding)
    # Literally: captions may contain braces.
    texts = {index: TEMPLATE.replace("{caption}", entry.prompt) for index, entry in enumerate(prompts.prompts)}

    def read(answer: Answer) -> dict[str, Any]:
        return {"scores": parse_scores(answer.text)}

    judgments = judge_images(judge, form, texts, read, out, images, images_per_prompt, RETRY_TEMPERATURE)
    for image in judgments.judged:
        if image.outcome["status"] == "ok":
            scores = image.outcome["scores"]
            scores = {**scores, "mean": sum(scores.values()) / len(scores)}
            judgments.tally.add({f"{image.prompt_index}/{part}": value for part, value in scores.items()})
    write_judgments(judgments, out, lambda image: {"prompt": prompts.prompts[image.prompt_index].prompt})
    settings = {
        "prompts": len(prompts.prompts),
        "prompts_sha256": prompts.sha256,
        "judge": judge_settings(judge, judgments.judged),
        "template_sha256": sha256(TEMPLATE),
        "temperature": 0,
        "retry_temperature": RETRY_TEMPERATURE,
        "max_tokens": MAX_TOKENS,
        "encoding": encoding,
        "sampling": judgments.sampling,
    }
    result = summarize("drawbench", judgments.tally, measures(prompts.prompts), settings, UNIT, partial)
    result.write(out)
    return result


def measures(prompts: Sequence[DrawPrompt]) -> list[Measure]:
    """A row a category, where there are any, and one over all; a column a dimension and one for their mean."""
    by_category: dict[str, list[int]] = {}
    for index, entry in enumerate(prompts):
        if entry.category:
            by_category.setdefault(entry.category, []).append(index)
    by_category[OVERALL] = list(range(len(prompts)))
    return [
        Measure(name, (tuple(f"{index}/{part}" for index in indices),), part)
        for part in PARTS
        for name, indices in by_category.items()
    ]
