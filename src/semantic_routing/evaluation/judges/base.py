"""What a judge is: questions about images in, what the model said out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
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
    """One question, and by what its answer is known."""

    key: str
    image: Image.Image
    text: str
    temperature: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What the model said, or why it said nothing.

    `first_token` lists alternatives for the first token with their natural log-probabilities; `about` is what the model
    says of itself.
    """

    key: str
    text: str = ""
    first_token: list[tuple[str, float]] = field(default_factory=list)
    about: JsonObject = field(default_factory=dict)
    error: str | None = None


class Judge(ABC):
    """A model that answers questions about images."""

    @property
    @abstractmethod
    def identity(self) -> JsonObject:
        """What an answer depends on beside the question."""

    @abstractmethod
    def ask(self, questions: Iterable[Question], form: Form) -> Iterator[Answer]:
        """Yields answers as they come, in any order; takes questions only as it can deal with them."""


@dataclass(frozen=True)
class JudgeOptions:
    """Whom to ask. All but the device are options of the benchmarks that ask.

    Args:
        judge_type: a name of `JUDGES`; None is "endpoint" where there is an address, and else "local".
        judge_model: the name at the endpoint, or a folder or hub name.
        judge_url: address of an OpenAI-compatible endpoint.
        judge_key: sent as a bearer token.
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
        str | None, Option(help="The judge's name at the endpoint; without an endpoint, a folder or hub name.")
    ] = None
    judge_url: Annotated[str | None, Option(help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")] = None
    judge_key: Annotated[str | None, Option(envvar="JUDGE_API_KEY", help="Sent as a bearer token.")] = None
    workers: Annotated[int, Option(min=1, help="Requests at a time.")] = 16
    retries: Annotated[int, Option(min=0, help="Tries after the first, with growing pauses.")] = 5
    timeout: Annotated[float, Option(min=0.1, help="Seconds for one try, until the whole reply is there.")] = 120.0
    device: str | None = None

    def open(self) -> Judge:
        """The judge.

        Raises:
            ValueError: no model is named, or the judge's type is unknown.
        """
        if self.judge_model is None:
            raise ValueError("Scoring needs a judge: name one with --judge-model, and its endpoint with --judge-url.")
        return JUDGES.find(self.judge_type or ("endpoint" if self.judge_url else "local"))(self)


JUDGES = Registry[Callable[[JudgeOptions], Judge]]("judge")
"""What opens a judge, by name. Opening is cheap: a model is loaded when it is first asked."""
