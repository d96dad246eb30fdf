"""What a benchmark is: prompts, where images lie, a judge of one image, the measures.

The runner does the rest: it samples, resumes, judges, counts what failed, and reports. A new benchmark is one file that
registers one class; docs/evaluating.md shows one.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from PIL import Image

from ..io.files import JsonObject
from ..io.images import UnreadableImageError, read_image
from ..io.registry import Registry
from .image_files import ImageFiles
from .result import Measure, Row, Tally
from .sampler import Sampler

Json = JsonObject
"""An object of JSON."""
Scores = Mapping[str, float] | None
"""An image's scores by part; "" is the score of a benchmark with one part. None: the judge's answer decides nothing."""

OK = "ok"
MISSING = "missing images"
UNREADABLE = "unreadable images"
FAILED = "failed judgments"
UNRESOLVED = "unresolved judgments"


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Args:
        found: what the judge found or said, as it is kept in the ledger and in `results.jsonl`.
        status: "ok", or the kind of problem that left the image without a verdict.
        error: the problem in detail.
    """

    found: Json = field(default_factory=dict)
    status: str = OK
    error: str = ""

    def entry(self) -> Json:
        """As it is written."""
        problem = {"error": self.error} if self.error else {}
        return {**self.found, "status": self.status, **problem}

    @classmethod
    def from_entry(cls, entry: Json) -> "Outcome":
        """As it was written."""
        found = {name: value for name, value in entry.items() if name not in ("key", "status", "error")}
        return cls(found, entry.get("status", OK), entry.get("error") or "")


class ImageFile(NamedTuple):
    """An image that there should be.

    Args:
        prompt: index of its prompt.
        sample: its number among the images of that prompt.
        name: in reports.
        path: of the file.
        question: which of the benchmark's questions about it, where there are several.
    """

    prompt: int
    sample: int
    name: str
    path: Path
    question: int = 0


class Judged(NamedTuple):
    """An image and what became of it."""

    image: ImageFile
    outcome: Outcome


class Benchmark(ABC):
    """A benchmark. Parameters of the constructor that are annotated with a `typer.Option` are options of its command.

    Args:
        prompts: by index, which also chooses an image's noise.
        files: where images lie.
    """

    sampler: ClassVar[Sampler] = Sampler()
    """How images are made where the user does not say otherwise."""
    unit: ClassVar[str]
    """What a score is, in a sentence."""
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    """The lowest and the highest score that there can be; None where there are none."""
    ledger: ClassVar[str | None] = None
    """File of the verdicts, so that a second run pays only for new ones; None where judging costs next to nothing."""

    def __init__(self, prompts: Mapping[int, str], files: ImageFiles) -> None:
        self.prompts = prompts
        self.files = files

    @classmethod
    def name(cls) -> str:
        """The name that it is registered under."""
        return next(name for name, benchmark in BENCHMARKS.items() if benchmark is cls)

    def known_prompts(self) -> Collection[int]:
        """Indices of all prompts; where only some are chosen, images of the others are no foreign files."""
        return self.prompts

    def check_judge(self, ask: bool = False) -> None:  # noqa: B027 - not every benchmark has something to check
        """Refuses what would only fail after sampling.

        Args:
            ask: a question, too, where the judge is another's.

        Raises:
            ValueError: the judge cannot be opened or asked.
        """

    @abstractmethod
    def judge_all(self, images: Mapping[str, ImageFile]) -> Iterator[tuple[str, Outcome]]:
        """Judges images by key, in any order; a later outcome for a key takes the place of an earlier one."""

    def num_questions(self, prompt: int) -> int:
        """How many verdicts an image of a prompt needs; each is kept by itself."""
        return 1

    def identity(self, prompt: int, question: int = 0) -> Json:
        """What a verdict depends on, beside the image: equal images with equal identities are judged once."""
        return {"prompt": prompt}

    def combine(self, prompt: int, outcomes: Sequence[Outcome]) -> Outcome:
        """What became of an image, from the outcomes of all its questions."""
        return outcomes[0]

    def after_judging(self, out: Path) -> None:  # noqa: B027 - most have nothing to add
        """What follows where some images were judged, say a check of the judge."""

    @abstractmethod
    def scores(self, found: Json) -> Scores:
        """The scores of an image, from what the judge found."""

    @abstractmethod
    def measures(self) -> list[Measure]:
        """The rows and columns of the result, as means of prompts' values; see `value_key`."""

    def rows(self, judged: Sequence[Judged]) -> list[Row]:
        """Rows of the result that are no means over prompts, say distances between sets of images."""
        return []

    def settings(self, judged: Sequence[Judged]) -> Json:
        """All that a reader needs to repeat the scoring; the record of sampling is added."""
        return {}

    def line(self, judged: Judged) -> Json | None:
        """An image's line in `results.jsonl`; None for no line."""
        image = judged.image
        place = {"image": image.name, "prompt_index": image.prompt, "sample_index": image.sample}
        return {**place, "prompt": self.prompts[image.prompt], **judged.outcome.entry()}

    def finish(self, lines: Sequence[Json], tally: Tally, out: Path) -> None:  # noqa: B027 - most make nothing
        """What else a benchmark makes of its lines and scores, say the official summary."""


class DetectorBenchmark(Benchmark):
    """A benchmark that looks at each image by itself."""

    @abstractmethod
    def judge(self, image: Image.Image, prompt: int) -> Json:
        """What is found in an RGB image of a prompt."""

    def judge_all(self, images: Mapping[str, ImageFile]) -> Iterator[tuple[str, Outcome]]:
        """One after the other; an image that does not open has no verdict."""
        for key, file in images.items():
            try:
                image = read_image(file.path)
            except UnreadableImageError as error:
                yield key, Outcome(status=UNREADABLE, error=str(error))
            else:
                yield key, Outcome(self.judge(image, file.prompt))


BENCHMARKS = Registry[type[Benchmark]]("benchmark")
"""All benchmarks, ours and users', by name."""


def value_key(prompt: int, part: str = "") -> str:
    """The key of a prompt's value in `Result.values`."""
    return f"{prompt}/{part}" if part else str(prompt)
