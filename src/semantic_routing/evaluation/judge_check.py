"""How well a judge judges: questions about pictures of the embedded world, whose right answers are known.

By skill, half of the statements about a picture are its true caption and half a minimal edit of it, which is false.
Pictures of the skill counting are counted as well. The judge answers in a word; neither probabilities nor a model's
score come into it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..io.files import JsonObject, sha256
from ..io.images import save_image
from ..scenes import SKILLS, Count, SceneSample, edits, render, sample_scene
from ..scenes.words import NUMBERS, plural
from .benchmark import ImageFile, Json, Scores, value_key
from .image_files import FlatFolder
from .judges import Answer, Form, JudgeOptions
from .questions import QuestionBenchmark
from .result import OVERALL, Measure, Result
from .sampler import Sampler

VERSION = 1
PER_SKILL = 32
COUNTED = 20
"""Questions for a number, beside the statements."""
SIZE = 256
"""Pixels a side of the pictures."""
MAX_TOKENS = 8
_SEED = 57721
"""Of the stream of pictures."""

STATEMENT = 'Is this statement true of the image: "{}"? Answer in one word, Yes or No.'
HOW_MANY = "How many {} are there in the image? Answer in one word."
TRUE, FALSE, NUMBER = "true", "false", "number"
"""Kinds of questions: a true statement, a false one, a number."""


class CheckQuestion(NamedTuple):
    """A question about a picture, with its right answer in lower case."""

    sample: SceneSample
    skill: str
    kind: str
    text: str
    answer: str


def check_questions(per_skill: int = PER_SKILL) -> list[CheckQuestion]:
    """Of each skill `per_skill` statements, true and false ones about the same pictures in turns; then numbers."""
    found: list[CheckQuestion] = []
    for skill in SKILLS:
        own: list[CheckQuestion] = []
        index = 0
        while len(own) < per_skill:
            sample = sample_scene(_SEED, index, "unseen", [skill])
            false = edits(sample)
            if false:
                edit = false[index % len(false)]
                own.append(CheckQuestion(sample, skill, TRUE, STATEMENT.replace("{}", sample.caption), "yes"))
                own.append(CheckQuestion(sample, skill, FALSE, STATEMENT.replace("{}", edit.caption), "no"))
            index += 1
        found += own[:per_skill]
    return [*found, *_numbers(min(COUNTED, per_skill))]


def _numbers(count: int) -> list[CheckQuestion]:
    found: list[CheckQuestion] = []
    index = 0
    while len(found) < count:
        sample = sample_scene(_SEED, index, "unseen", ["counting"])
        claim = next((claim for claim in sample.claims if isinstance(claim, Count) and claim.number > 0), None)
        if claim is not None:
            text = HOW_MANY.replace("{}", plural(str(claim.description)))
            found.append(CheckQuestion(sample, "counting", NUMBER, text, NUMBERS[claim.number]))
        index += 1
    return found


class JudgeCheck(QuestionBenchmark):
    """A judge's own accuracy by skill. Its pictures are drawn and not sampled: it is no benchmark of a pipeline.

    Args:
        judge: whom to check.
        per_skill: statements a skill.
    """

    sampler = Sampler(images_per_prompt=1)
    unit = "Share of questions about pictures of scenes that the judge answers rightly."

    def __init__(self, judge: JudgeOptions, per_skill: int = PER_SKILL) -> None:
        self.asked = check_questions(per_skill)
        texts = {number: question.text for number, question in enumerate(self.asked)}
        super().__init__(texts, FlatFolder({number: str(number) for number in texts}), judge, Form(MAX_TOKENS))

    @classmethod
    def name(cls) -> str:
        """As in results."""
        return "judge-check"

    def after_judging(self, out: Path) -> None:
        """Nothing: it is the check."""

    def draw(self, folder: Path) -> None:
        """Draws the pictures that are not there yet."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, question in enumerate(self.asked):
            path = folder / f"{number}_sample_0.png"
            if not path.is_file():
                save_image(Image.fromarray(render(question.sample.scene, SIZE)), path)

    def question(self, prompt: int, number: int = 0) -> str:
        """A statement that is true or false, or a number that is asked for."""
        return self.asked[prompt].text

    def protocol(self) -> Json:
        """Templates, rule, and the version of the questions."""
        rule = "the answer's first word is the right one; a digit is its word"
        listed = sha256("\n".join(f"{question.text} {question.answer}" for question in self.asked))
        return {"template": [STATEMENT, HOW_MANY], "rule": rule, "version": VERSION, "questions_sha256": listed}

    def read(self, answer: Answer, image: ImageFile) -> Json:
        """The answer's word; None where it is neither yes or no nor a number."""
        word = read_word(answer.text)
        return {"word": word, "right": word == self.asked[image.prompt].answer}

    def decisions(self, found: Json) -> Mapping[str, str]:
        """The word."""
        return {"": found["word"]} if found["word"] else {}

    def scores(self, found: Json) -> Scores:
        """1 for the right word, else 0; None for no word that is looked for."""
        return {"": float(found["right"])} if found["word"] else None

    def measures(self) -> list[Measure]:
        """A row a skill and their plain mean; a column for all questions and one a kind."""
        rows = []
        for part in ("all", TRUE, FALSE, NUMBER):
            by_skill: dict[str, list[str]] = {}
            for number, question in enumerate(self.asked):
                if part in ("all", question.kind):
                    by_skill.setdefault(question.skill, []).append(value_key(number))
            rows += [Measure(skill, (tuple(keys),), part) for skill, keys in by_skill.items()]
            if len(by_skill) > 1:
                rows.append(Measure(OVERALL, tuple(map(tuple, by_skill.values())), part))
        return rows


def read_word(answer: str) -> str | None:
    """Yes, no or a number word, if an answer begins with it, in lower case; a digit becomes its word."""
    match = re.match(r"\W*(\w+)", answer)
    word = match[1].lower() if match else ""
    if word.isdecimal() and int(word) < len(NUMBERS):
        word = NUMBERS[int(word)]
    return word if word in ("yes", *NUMBERS) else None


def check_judge(options: JudgeOptions, out: Path) -> JsonObject:
    """Asks a judge all questions, those aside that it has answered in an earlier run.

    Args:
        options: the judge.
        out: folder for pictures, answers and the result.

    Returns:
        Its accuracy by skill, overall, and the number of questions that it answered.
    """
    result = score_check(JudgeCheck(options), out, partial=True)
    rows = {row.name: row.score for row in result.rows if row.part == "all"}
    return {"accuracy": rows, "questions": len(result.values), "version": VERSION}


def score_check(check: JudgeCheck, out: Path, partial: bool = False) -> Result:
    """Draws the pictures and scores the judge's answers about them."""
    from .runner import IMAGES, score

    check.draw(out / IMAGES)
    return score(check, out, partial=partial)
