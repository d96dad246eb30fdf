"""What a judge is: questions about images in, what the model said out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, NamedTuple

from PIL import Image
from typer import Option

from ...io.files import JsonObject
from ...io.registry import Registry

Encoding = Literal["png", "jpeg95"]


@dataclass(frozen=True)
class Form:
    """How a judge is asked.

    Args:
        max_tokens: length of the answer.
        first_token: the probabilities of the answer's first token are wanted.
        image_first: the image stands before the text, not after it.
        encoding: of the image on its way to an endpoint; "jpeg95" is JPEG of quality 95.
    """

    max_tokens: int
    first_token: bool = False
    image_first: bool = True
    encoding: Encoding = "png"


class Question(NamedTuple):
    """One question.

    Args:
        key: by which its answer is known.
        image: what it is about.
        text: its words.
        temperature: of the answer.
        accepted: texts whose first tokens a judge that knows its tokenizer gives the probabilities of.
    """

    key: str
    image: Image.Image
    text: str
    temperature: float = 0.0
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said, or why it said nothing.

    Args:
        key: the question's.
        text: the answer.
        first_token: alternatives for the first token with their natural log-probabilities.
        about: what the model says of itself.
        accepted: for each of the question's accepted texts the number of its first token and that token's
            log-probability; empty where the judge does not know its tokenizer.
        error: why there is no answer.
    """

    key: str
    text: str = ""
    first_token: list[tuple[str, float]] = field(default_factory=list)
    about: JsonObject = field(default_factory=dict)
    accepted: list[tuple[int, float]] = field(default_factory=list)
    error: str | None = None


class Judge(ABC):
    """A model that answers questions about images."""

    @property
    @abstractmethod
    def identity(self) -> JsonObject:
        """What an answer depends on beside the question."""

    def try_out(self, form: Form) -> None:  # noqa: B027 - a judge that runs here is not loaded for a trial
        """Asks one question, where that may fail for reasons that are not the question's. Raises ValueError."""

    @abstractmethod
    def ask(self, questions: Iterable[Question], form: Form) -> Iterator[Answer]:
        """Yields answers as they come, in any order; takes questions only as it can deal with them."""


@dataclass(frozen=True)
class JudgeOptions:
    """Whom to ask. All but the device are options of the benchmarks that ask.

    Several models or addresses are several judges, see `each`; a judge is opened of the first ones.

    Args:
        judge_type: a name of `JUDGES`; None is "endpoint" where there is an address, and else "local".
        judge_model: the name at the endpoint, or a folder or hub name.
        judge_url: address of an OpenAI-compatible endpoint.
        judge_revision: of the model: which one is loaded, or what an endpoint's user says that it serves.
        judge_key: sent as a bearer token.
        judge_check: ask the judge about pictures of scenes first, of which the answers are known.
        workers: requests at a time.
        retries: tries after the first.
        timeout: seconds for one try.
        device: of a model that runs here; None is cuda where there is one.
    """

    judge_type: Annotated[
        str | None,
        Option(help="endpoint, local, or a registered judge; default: endpoint if there is a --judge-url."),
    ] = None
    judge_model: Annotated[
        list[str] | None,
        Option(help="The judge's name at the endpoint; without an endpoint, a folder or hub name. Twice: two judges."),
    ] = None
    judge_url: Annotated[
        list[str] | None,
        Option(help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1. Twice: two judges are compared."),
    ] = None
    judge_revision: Annotated[
        list[str] | None, Option(help="The judge's revision; for an endpoint it is only noted in the result.")
    ] = None
    judge_key: Annotated[
        str | None, Option(envvar="JUDGE_API_KEY", help="Key of the endpoint, sent as a bearer token.")
    ] = None
    judge_check: Annotated[
        bool,
        Option("--judge-check/--no-judge-check", help="Ask the judge about pictures with known answers, too."),
    ] = True
    workers: Annotated[int, Option(min=1, help="Requests at a time.")] = 16
    retries: Annotated[int, Option(min=0, help="Retries after a temporary failure, with growing pauses.")] = 5
    timeout: Annotated[float, Option(min=0.1, help="Seconds for one try, until the whole reply is there.")] = 120.0
    device: str | None = None

    def open(self) -> Judge:
        """The judge.

        Raises:
            ValueError: no model is named, or the judge's type is unknown.
        """
        if not self.judge_model:
            raise ValueError("Scoring needs a judge: name one with --judge-model, and its endpoint with --judge-url.")
        return JUDGES.find(self.judge_type or ("endpoint" if self.judge_url else "local"))(self)

    def each(self) -> "list[JudgeOptions]":
        """The options of each judge by itself; what is named once holds for all of them.

        Raises:
            ValueError: models, addresses and revisions are named in numbers that do not go together.
        """
        named = {"judge_model": self.judge_model, "judge_url": self.judge_url, "judge_revision": self.judge_revision}
        given = {name: values for name, values in named.items() if values}
        count = max(map(len, given.values()), default=1)
        for name, values in given.items():
            if len(values) not in (1, count):
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"There are {count} judges, but {option} is given {len(values)} times: once or {count} times."
                )

        def at(values: list[str] | None, number: int) -> list[str] | None:
            return values and [(values * count)[number]]

        return [
            replace(
                self,
                judge_model=at(self.judge_model, number),
                judge_url=at(self.judge_url, number),
                judge_revision=at(self.judge_revision, number),
            )
            for number in range(count)
        ]

    @property
    def model(self) -> str:
        """The first judge's."""
        return (self.judge_model or [""])[0]

    @property
    def url(self) -> str:
        """The first judge's."""
        return (self.judge_url or [""])[0]

    @property
    def revision(self) -> str | None:
        """The first judge's."""
        return self.judge_revision[0] if self.judge_revision else None


JUDGES = Registry[Callable[[JudgeOptions], Judge]]("judge")
"""What opens a judge, by name. Opening is cheap: a model is loaded when it is first asked."""
