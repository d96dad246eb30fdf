"""What a judge is: questions about images in, what the model said out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from PIL import Image

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


class Ask(NamedTuple):
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
    about: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class Judge(ABC):
    """A model that answers questions about images."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What an answer depends on beside the question."""

    @abstractmethod
    def ask(self, asks: Iterable[Ask], form: Form) -> Iterator[Answer]:
        """Yields answers as they come, in any order; takes questions only as it can deal with them."""
