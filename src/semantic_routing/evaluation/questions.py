"""Benchmarks whose judge is a vision-language model that is asked a question about each image."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ..io.images import UnreadableImageError, read_image
from .benchmark import FAILED, OK, UNREADABLE, Benchmark, ImageFile, Json, Judged, Outcome
from .image_files import ImageFiles
from .judges import Answer, Form, Judge, JudgeOptions, Question

ATTEMPTS = 3


class AnswerError(Exception):
    """An answer in which what was asked for cannot be found; the message says why."""


class QuestionBenchmark(Benchmark):
    """Asks a judge about every image, until its answer can be read, a few times at most.

    Args:
        prompts: by index.
        files: where images lie.
        judge: whom to ask.
        form: how.
    """

    ledger = "answers.jsonl"
    retry_temperature: ClassVar[float] = 0.0
    """Of the second and third attempt. At 0, the first one's, a model tends to repeat its answer."""

    def __init__(self, prompts: Mapping[int, str], files: ImageFiles, judge: JudgeOptions, form: Form) -> None:
        super().__init__(prompts, files)
        self.options = judge
        self.form = form
        self.check: Json = {}
        """The judge's accuracy on scenes, by skill, once it is known."""

    @abstractmethod
    def question(self, prompt: int, number: int) -> str:
        """Question `number` about an image of a prompt."""

    @abstractmethod
    def read(self, answer: Answer, image: ImageFile) -> Json:
        """What an answer means. Raises `AnswerError` where it does not say."""

    @abstractmethod
    def protocol(self) -> Json:
        """The question's `template`, and the `rule` that makes a score of an answer."""

    @abstractmethod
    def decisions(self, found: Json) -> Mapping[str, str]:
        """What the judge decided about an image, by question: where two judges decide the same, they agree."""

    def accepted(self, prompt: int, number: int) -> tuple[str, ...]:
        """Texts of the right answer, whose first tokens' probabilities are wanted."""
        return ()

    def judged_by(self, options: JudgeOptions) -> "QuestionBenchmark":
        """The same benchmark with another judge."""
        other = copy(self)
        other.__dict__.pop("judge", None)
        other.options = options
        return other

    @cached_property
    def judge(self) -> Judge:
        """The judge that was chosen."""
        return self.options.open()

    def check_judge(self, ask: bool = False) -> None:
        """Opens all judges, which is cheap: a model is loaded when it is first asked."""
        for options in self.options.each():
            judge = options.open()
            if ask:
                judge.try_out(self.form)

    def after_judging(self, out: Path) -> None:
        """Checks the judge on pictures whose answers are known."""
        if self.options.judge_check:
            from .judge_check import check_judge

            self.check = check_judge(self.options, out / "judge-check")

    def identity(self, prompt: int, question: int = 0) -> Json:
        """The question, its form, and the judge."""
        return {"text": self.question(prompt, question), "form": asdict(self.form), **self.judge.identity}

    def judge_all(self, images: Mapping[str, ImageFile]) -> Iterator[tuple[str, Outcome]]:
        """Asks about all images, and again about those whose answer could not be read, unless none could."""
        pending = dict(images)
        for attempt in range(ATTEMPTS):
            before = len(pending)
            unreadable: dict[str, Outcome] = {}
            temperature = self.retry_temperature if attempt else 0.0
            for answer in self.judge.ask(self._questions(pending, temperature, unreadable), self.form):
                outcome = self._outcome(answer, pending[answer.key])
                if outcome.status == OK:
                    del pending[answer.key]
                yield answer.key, outcome
            yield from unreadable.items()
            pending = {key: file for key, file in pending.items() if key not in unreadable}
            if not pending or len(pending) == before:
                break

    def _questions(
        self, images: Mapping[str, ImageFile], temperature: float, unreadable: dict[str, Outcome]
    ) -> Iterator[Question]:
        """Questions with their images, opened one after the other; what does not open is not asked about."""
        for key, file in list(images.items()):
            try:
                text = self.question(file.prompt, file.question)
                accepted = self.accepted(file.prompt, file.question)
                yield Question(key, read_image(file.path), text, temperature, accepted)
            except UnreadableImageError as error:
                unreadable[key] = Outcome(status=UNREADABLE, error=str(error))

    def _outcome(self, answer: Answer, image: ImageFile) -> Outcome:
        """What the judge said is kept whether or not it could be read."""
        said = {name: value for name, value in asdict(answer).items() if name not in ("key", "error")}
        try:
            if answer.error is not None:
                raise AnswerError(answer.error)
            return Outcome({**said, **self.read(answer, image)})
        except AnswerError as error:
            return Outcome(said, FAILED, str(error))

    def settings(self, judged: Sequence[Judged]) -> Json:
        """Who judged, by name and by what answers said of their model; how; and how well scenes say that it judges."""
        said = {str(entry.outcome.found.get("about")) for entry in judged if entry.outcome.status == OK}
        who = {**self.judge.identity, "reported": sorted(said)}
        return {"judge": {**who, **self.protocol(), **({"check": self.check} if self.check else {})}}
