"""GenAI-Bench (Li et al., 2024, arXiv 2406.13743): VQAScore by skill, the probability that a judge answers yes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from typer import Option

from ..io.files import JsonObject, read_json, sha256
from .benchmark import BENCHMARKS, ImageFile, Json, Judged, Scores, value_key
from .image_files import FlatFolder
from .judges import Answer, Form, JudgeOptions, yes_scores
from .prompt_files import Prompts, find_prompts
from .questions import AnswerError, QuestionBenchmark
from .result import OVERALL, Measure
from .sampler import Sampler

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
"""The papers' wording."""
GROUPS = ("basic", "advanced")

YesKind = Literal["yes_prob", "normalized", "first_match", "exact_yes"]
RULES: dict[YesKind, str] = {
    "yes_prob": "probability of the first token, summed over spellings of yes",
    "normalized": "that sum's share of the one over spellings of yes and no",
    "first_match": "probability of the likeliest spelling of yes, or 1 minus that of no, whichever is likelier",
    "exact_yes": "probability of the token Yes",
}
"""What each kind of score is."""


@BENCHMARKS.register("genai-bench")
class GenAIBench(QuestionBenchmark):
    """GenAI-Bench: P(yes) of a vision-language judge, by skill. Needs genai_image.json and genai_skills.json.

    Args:
        prompts: `genai_image.json`, as it was published.
        skills: `genai_skills.json`.
        judge: whom to ask.
        question: `{}` stands for the prompt.
        image_first: the image stands before the question.
        score: which score is reported; all of `judges.YES_KINDS` are kept for each image.

    Raises:
        ValueError: a file of another form, a skill that names an unknown prompt, or a question without a place.
    """

    sampler = Sampler(images_per_prompt=1)
    unit = "Probability that the judge answers yes."

    def __init__(
        self,
        prompts: Prompts,
        skills: Annotated[str | None, Option(help="genai_skills.json; default: only the overall score.")] = None,
        judge: JudgeOptions = JudgeOptions(workers=20),  # noqa: B008
        question: Annotated[
            str, Option(help="Question, in which {} is the prompt; default: the papers' wording.")
        ] = QUESTION,
        image_first: Annotated[bool, Option("--image-first/--text-first", help="What the judge reads first.")] = True,
        score: Annotated[YesKind, Option(help="What counts as P(yes).")] = "yes_prob",
    ) -> None:
        if question.count("{}") != 1:
            raise ValueError(f"The question must have one {{}} for the prompt; this one has not: {question!r}.")
        listed = read_prompts(find_prompts(prompts), find_prompts(skills) if skills else None)
        form = Form(max_tokens=1, first_token=True, image_first=image_first)
        super().__init__(listed.prompts, FlatFolder(listed.keys), judge, form)
        self.listed = listed
        self.wording = question
        self.kind = score

    def question(self, prompt: int, number: int = 0) -> str:
        """The question about an image of a prompt."""
        # Literally: prompts may contain braces.
        return self.wording.replace("{}", self.prompts[prompt])

    def read(self, answer: Answer, image: ImageFile) -> Json:
        """All kinds of score; None where the judge's first token means neither yes nor no."""
        try:
            return {"scores": yes_scores(answer.first_token)}
        except ValueError as error:
            raise AnswerError(str(error)) from error

    def protocol(self) -> Json:
        """The wording, and the kind of P(yes)."""
        order = "image, question" if self.form.image_first else "question, image"
        return {"template": self.wording, "order": order, "rule": f"{self.kind}: {RULES[self.kind]}"}

    def decisions(self, found: Json) -> Mapping[str, str]:
        """Whether yes is likelier than not."""
        scores = self.scores(found)
        return {"": "yes" if scores[""] > 0.5 else "no"} if scores else {}

    def scores(self, found: Json) -> Scores:
        """The kind that was chosen."""
        return {"": found["scores"][self.kind]} if found["scores"] else None

    def line(self, judged: Judged) -> Json:
        """With the score that counts."""
        scores = judged.outcome.found.get("scores")
        return {**(super().line(judged) or {}), "score": scores[self.kind] if scores else None}

    def settings(self, judged: Sequence[Judged]) -> Json:
        """Files, judge and how it was asked."""
        return {"sha256": self.listed.sha256, **super().settings(judged)}

    def measures(self) -> list[Measure]:
        """A row a skill and one a group, each over its own list; overall is over their union, each prompt once."""

        def measure(name: str, numbers: Sequence[int]) -> Measure:
            return Measure(name, (tuple(map(value_key, numbers)),), self.kind)

        skills = self.listed.skills
        lists = skills or {"": list(self.prompts)}
        union = list(dict.fromkeys(number for numbers in lists.values() for number in numbers))
        ordered = sorted(skills, key=lambda skill: skill in GROUPS)
        return [*(measure(skill, skills[skill]) for skill in ordered), measure(OVERALL, union)]


class GenAIPrompts(NamedTuple):
    """Prompts by the number in their key, their keys, the prompts of each skill and group, and the files' SHA-256."""

    prompts: dict[int, str]
    keys: dict[int, str]
    skills: dict[str, list[int]]
    sha256: dict[str, str]


def read_prompts(path: Path, skills_path: Path | None = None) -> GenAIPrompts:
    """Reads `genai_image.json` and `genai_skills.json` as they were published.

    Raises:
        ValueError: a file of another form, or a skill that names an unknown prompt.
    """
    prompts, keys = {}, {}
    for key, entry in _read_object(path).items():
        if not key.isdecimal():
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


def _read_object(path: Path) -> JsonObject:
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}, not an object.")
    return record
