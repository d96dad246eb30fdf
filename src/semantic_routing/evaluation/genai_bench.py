"""GenAI-Bench (Li et al., 2024, arXiv 2406.13743): VQAScore by skill, the probability that a judge answers yes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..io.files import sha256
from .judged import Judged, judge_images, judge_settings, write_judgments
from .judges import Answer, AnswerError, Form, Judge, yes_scores
from .layout import flat_jobs
from .report import OVERALL, Measure, Result, summarize
from .sampling import Sampler, sample_images

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
"""The papers' wording."""
GROUPS = ("basic", "advanced")
UNIT = "Probability that the judge answers yes."

YesKind = Literal["yes_prob", "normalized", "first_match", "exact_yes"]


class GenAIPrompts(NamedTuple):
    """Prompts by the number in their key, their keys, the prompts of each skill and group, and the files' SHA-256."""

    prompts: dict[int, str]
    keys: dict[int, str]
    skills: dict[str, list[int]]
    sha256: dict[str, str]


@dataclass(frozen=True)
class VQAOptions:
    """How the judge is asked: two scores compare only if these are the same.

    Args:
        question: `{}` stands for the prompt.
        image_first: the image stands before the question.
        kind: which score is reported; all of `judges.YES_KINDS` are kept for each image.
    """

    question: str = QUESTION
    image_first: bool = True
    kind: YesKind = "yes_prob"

    def __post_init__(self) -> None:
        if self.question.count("{}") != 1:
            raise ValueError(f"The question must have one {{}} for the prompt; this one has not: {self.question!r}.")

    def ask(self, prompt: str) -> str:
        """The question about an image of `prompt`."""
        # Literally: prompts may contain braces.
        return self.question.replace("{}", prompt)


def read_prompts(path: Path, skills_path: Path | None = None) -> GenAIPrompts:
    """Reads `genai_image.json` and `genai_skills.json` as they were published.

    Raises:
        ValueError: a file of another form, or a skill that names an unknown prompt.
    """
    entries = _read_object(path)
    prompts, keys = {}, {}
    for key, entry in entries.items():
        if not (isinstance(key, str) and key.isdecimal()):
            raise ValueError(f"{path}: the key {key!r} is not a number.")
        if not (isinstance(entry, dict) and isinstance(entry.get("prompt"), str)):
            raise ValueError(f"{path}: the entry of {key!r} has no prompt.")
        # The entry's own id is not reliable: some have lost their zeros.
        if int(key) in prompts:
            raise ValueError(f"{path}: the number {int(key)} occurs twice.")
        prompts[int(key)], keys[int(key)] = entry["prompt"], key
    if not prompts:
        raise ValueError(f"{path} holds no prompts; GenAI-Bench's genai_image.json is expected.")
    digests = {"prompts": sha256(path.read_bytes())}
    skills: dict[str, list[int]] = {}
    if skills_path is not None:
        skills = _read_skills(skills_path, prompts)
        digests["skills"] = sha256(skills_path.read_bytes())
    return GenAIPrompts(prompts, keys, skills, digests)


def _read_skills(path: Path, prompts: dict[int, str]) -> dict[str, list[int]]:
    skills: dict[str, list[int]] = {}
    for skill, numbers in _read_object(path).items():
        if not (isinstance(numbers, list) and all(str(number).isdecimal() for number in numbers)):
            raise ValueError(f"{path}: the skill {skill!r} is not a list of prompt numbers.")
        skills[skill] = list(dict.fromkeys(int(number) for number in numbers))
        unknown = [number for number in skills[skill] if number not in prompts]
        if unknown:
            raise ValueError(f"{path}: the skill {skill!r} names prompt {unknown[0]}, which the prompt file lacks.")
    return skills


def _read_object(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}, not an object.")
    return record


def sample(prompts: GenAIPrompts, sampler: Sampler, out: Path) -> None:
    """Makes the images that are not there yet as `out/images/KEY_sample_I.png`."""
    named = {number: (prompts.keys[number], prompt) for number, prompt in prompts.prompts.items()}
    sample_images(sampler, flat_jobs(out / "images", named, sampler.images_per_prompt), out)


def score(
    prompts: GenAIPrompts,
    judge: Judge,
    options: VQAOptions,
    out: Path,
    images: Path | None = None,
    images_per_prompt: int | None = None,
    partial: bool = False,
) -> Result:
    """Asks the judge about the images and writes `results.jsonl` and the result's files in `out`.

    Args:
        prompts: with their skills.
        judge: whom to ask.
        options: how, and which score counts.
        out: folder for answers and results, with the record of sampling.
        images: where the images are; None is `out/images`.
        images_per_prompt: how many there should be; None is as many as were sampled, or one.
        partial: give overall numbers even if judgments are missing.
    """
    form = Form(max_tokens=1, first_token=True, image_first=options.image_first)
    texts = {number: options.ask(prompt) for number, prompt in prompts.prompts.items()}
    # The first token's probabilities are the same at any temperature.
    judgments = judge_images(judge, form, texts, _read, out, images, images_per_prompt, retry_temperature=0.0)
    for image in judgments.judged:
        if image.outcome["status"] != "ok":
            continue
        scores = image.outcome["scores"]
        if scores is None:
            judgments.tally.problem("unresolved judgments", image.name)
        else:
            judgments.tally.add({str(image.prompt_index): scores[options.kind]})
    write_judgments(judgments, out, lambda image: _describe(image, prompts, options))
    settings = {
        "prompts": len(prompts.prompts),
        "sha256": prompts.sha256,
        "judge": judge_settings(judge, judgments.judged),
        "question": options.question,
        "image_first": options.image_first,
        "score": options.kind,
        "sampling": judgments.sampling,
    }
    result = summarize("genai-bench", judgments.tally, measures(prompts, options.kind), settings, UNIT, partial)
    result.write(out)
    return result


def _read(answer: Answer) -> dict[str, Any]:
    """All kinds of score; None where the judge's first token means neither yes nor no."""
    try:
        return {"scores": yes_scores(answer.first_token)}
    except ValueError as error:
        raise AnswerError(str(error)) from error


def _describe(image: Judged, prompts: GenAIPrompts, options: VQAOptions) -> dict[str, Any]:
    scores = image.outcome.get("scores")
    return {"prompt": prompts.prompts[image.prompt_index], "score": scores[options.kind] if scores else None}


def measures(prompts: GenAIPrompts, part: str) -> list[Measure]:
    """A row a skill and a row a group, each over its own list; overall is over their union, each prompt once."""

    def keys(numbers: Sequence[int]) -> tuple[tuple[str, ...]]:
        return (tuple(map(str, numbers)),)

    lists = prompts.skills or {"": list(prompts.prompts)}
    union = list(dict.fromkeys(number for numbers in lists.values() for number in numbers))
    ordered = sorted(prompts.skills, key=lambda skill: skill in GROUPS)
    found = [Measure(skill, keys(prompts.skills[skill]), part) for skill in ordered]
    return [*found, Measure(OVERALL, keys(union), part)]
