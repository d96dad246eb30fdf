"""GenEval 2 (arXiv 2512.16853): a vision-language judge answers one question an atom of the prompt (Soft-TIFA).

Data and code of the benchmark are CC BY-NC 4.0: the prompt file is the user's. The rule by which an answer becomes a
score is the official script's; `docs/evaluating.md` says where an endpoint cannot follow it to the letter.

OUT/
  images/images.json      {prompt: file}, as the official script reads it
  summary.json            the official figures, in per cent
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from typer import Option

from ..io.files import sha256, write_json
from .benchmark import BENCHMARKS, FAILED, OK, UNRESOLVED, ImageFile, Json, Judged, Outcome, Scores, value_key
from .image_files import PromptNamedFiles
from .judges import Answer, Form, JudgeOptions
from .judges.yes_no import is_no, is_yes
from .prompt_files import Prompts, find_prompts
from .questions import AnswerError, QuestionBenchmark
from .result import OVERALL, Measure, Tally
from .sampler import Sampler

logger = logging.getLogger(__name__)

NUM_PROMPTS, NUM_QUESTIONS = 800, 6012
SUFFIX = " Answer in one word."
VQA_TEMPLATE = 'Does this image show "{}"? Answer the question with Yes or No.'
YES = ("Yes", "yes", " yes", " Yes")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OTHER = ("other",)
"""What the official script accepts where the right number is none of `NUMBERS`."""
NO_NUMBER = ("zero", "none", "no")
"""How a judge says that there is nothing to count."""
AM, GM, HARD, QUESTIONS = "AM", "GM", "hard", "questions"
"""Columns: arithmetic and geometric mean of a prompt's scores, share of its right answers; by question."""

Total = Literal["official", "distinct"]
Method = Literal["soft-tifa", "vqascore"]


class Atom(NamedTuple):
    """A question about an image, the texts of its right answer, and the skill that it asks about."""

    question: str
    accepted: tuple[str, ...]
    skill: str


class Entry(NamedTuple):
    """A line of the prompt file."""

    prompt: str
    atom_count: int
    atoms: tuple[Atom, ...]


@BENCHMARKS.register("geneval2")
class GenEval2(QuestionBenchmark):
    """GenEval 2: a vision-language judge answers one question per atom (Soft-TIFA). Needs geneval2_data.jsonl.

    Args:
        prompts: the prompt file.
        judge: whom to ask.
        method: soft-tifa asks one question per atom; vqascore asks once whether the image shows the prompt.
        total: official adds up the first tokens of all accepted texts, so that a token that two of them share counts
            twice; distinct counts it once.

    Raises:
        ValueError: the prompt file cannot be read.
    """

    sampler = Sampler(images_per_prompt=1)
    unit = "Soft-TIFA: the probability of the right answer, its geometric (GM) or arithmetic mean (AM) over a prompt."

    def __init__(
        self,
        prompts: Prompts,
        judge: JudgeOptions = JudgeOptions(workers=32),  # noqa: B008
        method: Annotated[Method, Option(help="One question per atom, or one about the whole prompt.")] = "soft-tifa",
        total: Annotated[
            Total, Option("--sum", help="Sum over the first tokens of all accepted answers, or over each token once.")
        ] = "official",
    ) -> None:
        path = find_prompts(prompts)
        self.entries = read_prompts(path)
        self.sha256 = sha256(path.read_bytes())
        if method == "vqascore":
            self.entries = [
                entry._replace(atoms=(Atom(VQA_TEMPLATE.replace("{}", entry.prompt), YES, method),))
                for entry in self.entries
            ]
        self.method = method
        self.total = total
        texts = {index: entry.prompt for index, entry in enumerate(self.entries)}
        super().__init__(texts, PromptNamedFiles(texts), judge, Form(max_tokens=1, first_token=True))

    def num_questions(self, prompt: int) -> int:
        """One an atom, and one for each "a" that is counted."""
        return len(self.entries[prompt].atoms)

    def question(self, prompt: int, number: int) -> str:
        """The question of an atom."""
        return self.entries[prompt].atoms[number].question

    def accepted(self, prompt: int, number: int) -> tuple[str, ...]:
        """The spellings of its right answer."""
        return self.entries[prompt].atoms[number].accepted

    def protocol(self) -> Json:
        """The official template and rule, and which sum was taken."""
        template = "{question}" + SUFFIX if self.method == "soft-tifa" else VQA_TEMPLATE
        tokens = "texts, as officially" if self.total == "official" else "distinct tokens"
        return {"template": template, "rule": f"probability of the answer's first token, summed over accepted {tokens}"}

    def identity(self, prompt: int, question: int = 0) -> Json:
        """With the accepted texts, whose probabilities a local judge gives."""
        return {**super().identity(prompt, question), "accepted": self.accepted(prompt, question)}

    def read(self, answer: Answer, image: ImageFile) -> Json:
        """The answer's score; see `judge_atom`."""
        return self.judge_atom(answer.first_token, answer.accepted, self.accepted(image.prompt, image.question))

    def judge_atom(
        self,
        listed: Sequence[tuple[str, float]],
        known: Sequence[tuple[int, float]],
        accepted: Sequence[str],
    ) -> Json:
        """The probability of the right answer, whether the likeliest token is right, and the mass of what was listed.

        Over an endpoint, what is not among the likeliest tokens has no mass. Where none of them is an answer to such a
        question, right or wrong, nothing is known, and the score is None.

        Args:
            listed: likeliest tokens with their log-probabilities.
            known: first tokens of the accepted texts with theirs, where the judge knows its tokenizer.
            accepted: texts of the right answer.

        Raises:
            AnswerError: there are no probabilities, or they add up to more than 1.
        """
        if not listed:
            raise AnswerError("the judge listed no alternatives for its first token")
        mass = math.fsum(math.exp(min(value, 1.0)) for _, value in listed)
        if not mass <= 1.01:  # a little more than 1 is rounding
            raise AnswerError(f"the first token's probabilities add up to {mass:.4f}, more than 1")
        probabilities = {token: math.exp(value) for token, value in reversed(listed)}
        tokens = [(str(index), math.exp(value)) for index, value in known]
        tokens = tokens or [(token, probabilities.get(token, 0.0)) for token in map(first_token, accepted)]
        score = add_up(tokens, self.total)
        if score > 1.01:
            raise AnswerError(f"tokens that several accepted texts share add up to {score:.3f}; use --sum distinct")
        greedy = max(listed, key=lambda entry: entry[1])[0]
        answered = known or any(is_answer(token, accepted) for token, _ in listed)
        return {
            "score": min(score, 1.0) if answered else None,
            "right": greedy.lower() in accepted,
            "mass": min(mass, 1.0),
        }

    def combine(self, prompt: int, outcomes: Sequence[Outcome]) -> Outcome:
        """An image has scores if all its questions have; what was listed for each stays in the ledger."""
        answers: list[Json] = []
        errors: list[tuple[str, str]] = []
        for atom, outcome in zip(self.entries[prompt].atoms, outcomes, strict=True):
            if outcome.status != OK:
                errors.append((outcome.status, outcome.error))
                continue
            said = outcome.found
            try:  # anew: the answer may have been kept when another sum was asked for
                listed, known = ([(token, value) for token, value in said[key]] for key in ("first_token", "accepted"))
                found = self.judge_atom(listed, known, atom.accepted)
            except AnswerError as error:
                errors.append((FAILED, str(error)))
                continue
            if found["score"] is None:
                wanted = "yes or no" if atom.accepted == YES else "a number"
                errors.append((UNRESOLVED, f"the judge began with {said['text']!r}, and no likely token is {wanted}"))
            else:
                answers.append({"question": atom.question, "skill": atom.skill, **found, "text": said["text"]})
        if errors:
            return Outcome({}, errors[0][0], f"{len(errors)} of {len(outcomes)} questions: {errors[0][1]}")
        return Outcome({"answers": answers, "about": outcomes[0].found.get("about")})

    def decisions(self, found: Json) -> Mapping[str, str]:
        """Whether each question is answered rightly."""
        return {answer["question"]: "right" if answer["right"] else "wrong" for answer in found["answers"]}

    def scores(self, found: Json) -> Scores:
        """Means over the prompt's questions, and over those of each skill."""
        scores = [answer["score"] for answer in found["answers"]]
        by_skill: dict[str, list[float]] = {}
        for answer in found["answers"]:
            by_skill.setdefault(answer["skill"], []).append(answer["score"])
        means = {skill: float(np.mean(values)) for skill, values in by_skill.items()}
        hard = float(np.mean([answer["right"] for answer in found["answers"]]))
        return {GM: geometric_mean(scores), AM: float(np.mean(scores)), HARD: hard, **means}

    def settings(self, judged: Sequence[Judged]) -> Json:
        """The prompt file, whether its numbers are the official ones, the judge, and the mass that was seen."""
        masses = [
            answer["mass"]
            for entry in judged
            if entry.outcome.status == OK
            for answer in entry.outcome.found["answers"]
        ]
        seen = {"mean": float(np.mean(masses)), "least": min(masses)} if masses else None
        return {
            "prompts_sha256": self.sha256,
            "official_size": is_official_size(self.entries) or self.method == "vqascore",
            "method": self.method,
            **super().settings(judged),
            "probability_listed": seen,
        }

    def measures(self) -> list[Measure]:
        """Overall by GM, AM and right answers; GM by number of atoms; skills over all their questions."""

        def prompts(indices: Sequence[int], part: str) -> tuple[tuple[str, ...], ...]:
            return (tuple(value_key(index, part) for index in indices),)

        rows = [Measure(OVERALL, prompts(list(self.prompts), part), part) for part in (GM, AM, HARD)]
        for count in sorted({entry.atom_count for entry in self.entries}):
            chosen = [index for index, entry in enumerate(self.entries) if entry.atom_count == count]
            rows.append(Measure(f"{count} atoms", prompts(chosen, GM), GM))
        numbers = [Counter(atom.skill for atom in entry.atoms) for entry in self.entries]
        for skill in dict.fromkeys(skill for each in numbers for skill in each) if self.method == "soft-tifa" else ():
            asked = {index: float(each[skill]) for index, each in enumerate(numbers) if each[skill]}
            rows.append(Measure(skill, prompts(list(asked), skill), QUESTIONS, (tuple(asked.values()),)))
        return rows

    def finish(self, lines: Sequence[Json], tally: Tally, out: Path) -> None:
        """Writes the official figures."""
        judged = [line for line in lines if "answers" in line]
        counts = [self.entries[line["prompt_index"]].atom_count for line in judged]
        write_json(out / "summary.json", official_figures([line["answers"] for line in judged], counts))


def official_figures(answers: Sequence[Sequence[Json]], atom_counts: Sequence[int]) -> Json:
    """The official script's figures, in per cent, of images' answers with their `score` and `skill`."""
    scores = [[answer["score"] for answer in image] for image in answers]
    geometric = [geometric_mean(image) for image in scores]
    by_skill: dict[str, list[float]] = {}
    by_count: dict[str, list[float]] = {}
    for image, count, mean in zip(answers, atom_counts, geometric, strict=True):
        by_count.setdefault(str(count), []).append(mean)
        for answer in image:
            by_skill.setdefault(answer["skill"], []).append(answer["score"])

    def percent(values: Sequence[float]) -> float | None:
        return 100 * float(np.mean(values)) if values else None

    return {
        "images": len(scores),
        "soft_tifa_am": percent([float(np.mean(image)) for image in scores]),
        "soft_tifa_gm": percent(geometric),
        "skills": {skill: percent(values) for skill, values in by_skill.items()},
        "atom_counts": {count: percent(by_count[count]) for count in sorted(by_count, key=int)},
    }


def geometric_mean(scores: Sequence[float]) -> float:
    """0 if one is 0."""
    return math.exp(math.fsum(map(math.log, scores)) / len(scores)) if all(scores) else 0.0


def add_up(tokens: Sequence[tuple[str, float]], total: Total) -> float:
    """The probabilities of tokens, each as often as it is listed or only once."""
    return math.fsum(dict(tokens).values() if total == "distinct" else (p for _, p in tokens))


def first_token(text: str) -> str:
    """The first token of an accepted text as Qwen's tokenizer has it: words are one token, spaces before digits too."""
    return " " if text[:1] == " " and text[1:].isdecimal() else text


def is_answer(token: str, accepted: Sequence[str]) -> bool:
    """Whether a token answers a question with these accepted texts, rightly or wrongly."""
    word = token.strip().lower()
    if tuple(accepted) == YES:
        return is_yes(token) or is_no(token)
    return word.isdecimal() or word in (*NUMBERS, *NO_NUMBER) or token in map(first_token, accepted)


def accepted_texts(question: str, answer: str) -> tuple[str, ...]:
    """The official spellings of a right answer."""
    if not question.startswith("How many"):
        return YES
    if answer not in NUMBERS:
        return OTHER
    digit = str(NUMBERS.index(answer) + 1)
    words = (answer, answer.capitalize())
    return (*words, *(f" {word}" for word in words), digit, f" {digit}")


def is_official_size(entries: Sequence[Entry]) -> bool:
    """Whether there are as many prompts and questions as in the published file."""
    return (len(entries), sum(len(entry.atoms) for entry in entries)) == (NUM_PROMPTS, NUM_QUESTIONS)


def read_prompts(path: Path) -> list[Entry]:
    """Reads `geneval2_data.jsonl`.

    Raises:
        ValueError: naming the first line that is of another form, or a prompt that stands there twice.
    """
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        entry = _read_line(line, f"{path}, line {number}")
        if entry.prompt in lines:
            raise ValueError(f"{path}, line {number} repeats line {lines[entry.prompt]}'s prompt: {entry.prompt!r}.")
        lines[entry.prompt] = number
        entries.append(entry)
    if not entries:
        raise ValueError(f"{path} holds no prompts; GenEval 2's geneval2_data.jsonl is expected.")
    if not is_official_size(entries):
        questions = sum(len(entry.atoms) for entry in entries)
        logger.warning(
            "%s holds %d prompts with %d questions, not GenEval 2's %d with %d: scores do not compare with others'.",
            *(path, len(entries), questions, NUM_PROMPTS, NUM_QUESTIONS),
        )
    return entries


def _read_line(line: str, where: str) -> Entry:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}.") from error
    forms: dict[str, Callable[[object], bool]] = {
        "prompt": lambda value: isinstance(value, str) and bool(value.strip()),
        "atom_count": lambda value: isinstance(value, int),
        "vqa_list": lambda value: isinstance(value, list) and bool(value) and all(map(_is_pair, value)),
        "skills": lambda value: isinstance(value, list) and all(isinstance(skill, str) for skill in value),
    }
    for key, fits in forms.items():
        value = record.get(key) if isinstance(record, dict) else None
        if not fits(value):
            raise ValueError(f"{where} is not GenEval 2's: its {key!r} is {str(value)[:80]!r}.")
    questions, skills = record["vqa_list"], record["skills"]
    if len(questions) != len(skills):
        raise ValueError(f"{where} has {len(questions)} questions, but {len(skills)} skills; GenEval 2 has one each.")
    atoms = tuple(
        Atom(question + SUFFIX, accepted_texts(question, answer), skill)
        for (question, answer), skill in zip(questions, skills, strict=True)
    )
    return Entry(record["prompt"], record["atom_count"], atoms)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)
