"""DrawBench prompts, scored by UnifiedReward 2.0: alignment, coherence and style, each from 1 to 5.

The prompt list is the user's; the headline is style, as in the paper.
"""

import csv
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from typer import Option

from ..io.files import read_json, sha256
from .benchmark import BENCHMARKS, ImageFile, Json, Judged, Scores, value_key
from .image_files import FlatFolder
from .judges import Answer, Form, JudgeOptions
from .judges.base import Encoding
from .prompt_files import Prompts, find_prompts
from .questions import AnswerError, QuestionBenchmark
from .result import OVERALL, Measure
from .sampler import Sampler

logger = logging.getLogger(__name__)

NUM_PROMPTS = 200
PROMPT_FIELDS = ("prompt", "caption", "text", "instruction")
DIMENSIONS = ("alignment", "coherence", "style")
PARTS = ("style", "alignment", "coherence", "mean")
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


@BENCHMARKS.register("drawbench")
class DrawBench(QuestionBenchmark):
    """DrawBench prompts scored by UnifiedReward 2.0: style, alignment, coherence. Needs a prompt list.

    Args:
        prompts: the list; see `read_prompts`.
        judge: a UnifiedReward model.
        encoding: of images on their way to an endpoint.

    Raises:
        ValueError: the list cannot be read.
    """

    sampler = Sampler(images_per_prompt=1)
    unit = "UnifiedReward, from 1 to 5; the headline is style."
    bounds = (1.0, 5.0)
    retry_temperature = 0.3

    def __init__(
        self,
        prompts: Prompts,
        judge: JudgeOptions = JudgeOptions(),  # noqa: B008
        encoding: Annotated[Encoding, Option(help="Encoding of images sent to an endpoint.")] = "jpeg95",
    ) -> None:
        path = find_prompts(prompts)
        self.listed = read_prompts(path)
        self.sha256 = sha256(path.read_bytes())
        texts = {index: entry.prompt for index, entry in enumerate(self.listed)}
        names = {index: str(index) for index in texts}
        super().__init__(texts, FlatFolder(names), judge, Form(MAX_TOKENS, encoding=encoding))

    def question(self, prompt: int, number: int = 0) -> str:
        """The template with the prompt as caption."""
        # Literally: captions may contain braces.
        return TEMPLATE.replace("{caption}", self.prompts[prompt])

    def read(self, answer: Answer, image: ImageFile) -> Json:
        """The three scores."""
        return {"scores": parse_scores(answer.text)}

    def protocol(self) -> Json:
        """UnifiedReward's."""
        return {"template": TEMPLATE, "rule": "the last score of each name in the reply, from 1 to 5"}

    def decisions(self, found: Json) -> Mapping[str, str]:
        """The scores as whole numbers."""
        return {name: str(round(score)) for name, score in found["scores"].items()}

    def scores(self, found: Json) -> Scores:
        """The three, and their mean."""
        scores = found["scores"]
        return {**scores, "mean": sum(scores.values()) / len(scores)}

    def settings(self, judged: Sequence[Judged]) -> Json:
        """List, judge and how it was asked."""
        return {
            "prompts_sha256": self.sha256,
            **super().settings(judged),
            "temperature": 0,
            "retry_temperature": self.retry_temperature,
            "max_tokens": MAX_TOKENS,
            "encoding": self.form.encoding,
        }

    def measures(self) -> list[Measure]:
        """A row a category, where there are any, and one over all; a column a dimension and one for their mean."""
        by_category: dict[str, list[int]] = {}
        for index, entry in enumerate(self.listed):
            if entry.category:
                by_category.setdefault(entry.category, []).append(index)
        by_category[OVERALL] = list(self.prompts)
        return [
            Measure(name, (tuple(value_key(index, part) for index in indices),), part)
            for part in PARTS
            for name, indices in by_category.items()
        ]


class DrawPrompt(NamedTuple):
    """A prompt, and its category where the list gives one."""

    prompt: str
    category: str | None


def read_prompts(path: Path) -> list[DrawPrompt]:
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
    return prompts


def _read_json(path: Path) -> list[object]:
    record = read_json(path)
    if isinstance(record, dict):
        return list(record.values())
    if not isinstance(record, list):
        raise ValueError(f"{path} holds a {type(record).__name__}, not a list or an object of prompts.")
    return record


def _read_jsonl(path: Path) -> list[object]:
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entries += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
    return entries


def _read_csv(path: Path) -> list[object]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))


def _prompt(entry: object, where: str) -> DrawPrompt:
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
