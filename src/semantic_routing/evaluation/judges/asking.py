"""Asking a judge about many images: nothing is asked twice, nothing is made up."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from ...io.files import sha256
from ...io.images import UnreadableImageError, read_image
from ...io.jsonl import Ledger, work_key
from .base import Answer, Ask, Form, Judge

ATTEMPTS = 3
RETRY_TEMPERATURE = 0.3
UNREADABLE = "unreadable images"
ERROR = "failed judgments"


class AnswerError(Exception):
    """An answer in which what was asked for cannot be found; the message says why."""


class Question(NamedTuple):
    """What to ask about the image at a path."""

    image: Path
    text: str


Reader = Callable[[Answer], dict[str, Any]]
"""What an answer means; raises `AnswerError` where it does not say."""


def ask_all(
    judge: Judge,
    form: Form,
    questions: Mapping[str, Question],
    ledger: Ledger,
    read: Reader,
    retry_temperature: float = RETRY_TEMPERATURE,
) -> dict[str, dict[str, Any]]:
    """Asks each question until its answer can be read, a few times at most, and returns what came of it by name.

    An outcome has `status` "ok" with what `read` returned, "unreadable images" or "failed judgments"; the latter two
    say why in `error`. Only answers that can be read are taken from the ledger; what the model said is always kept
    there.

    Args:
        judge: whom to ask.
        form: how.
        questions: by name.
        ledger: of earlier answers; they are known by image, text, form and judge.
        read: what an answer means.
        retry_temperature: of further attempts, since the same question at 0 has the same answer.
    """
    outcomes: dict[str, dict[str, Any]] = {}
    keys: dict[str, list[str]] = {}
    for name, question in questions.items():
        image = sha256(question.image.read_bytes())
        key = work_key(image=image, text=question.text, form=asdict(form), **judge.identity)
        entry = ledger.get(key)
        if entry is not None and entry["status"] == "ok":
            outcomes[name] = entry
        else:
            # Equal images with equal questions are one piece of work.
            keys.setdefault(key, []).append(name)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("judging", total=len(keys))
        pending = {key: questions[names[0]] for key, names in keys.items()}
        for attempt in range(ATTEMPTS):
            before = len(pending)
            for answer in judge.ask(_asks(pending, attempt * retry_temperature, ledger), form):
                if _take(answer, read, ledger):
                    del pending[answer.key]
                    progress.advance(task)
            pending = {key: question for key, question in pending.items() if not _is_unreadable(ledger, key)}
            if not pending or len(pending) == before:
                break
    for key, names in keys.items():
        outcomes.update(dict.fromkeys(names, ledger.get(key) or {"status": ERROR, "error": "no answer came"}))
    return outcomes


def _asks(questions: Mapping[str, Question], temperature: float, ledger: Ledger) -> Iterator[Ask]:
    """The questions with their images, opened one after the other; what does not open is not asked about."""
    for key, question in list(questions.items()):
        try:
            yield Ask(key, read_image(question.image), question.text, temperature)
        except UnreadableImageError as error:
            ledger.add(key, {"status": UNREADABLE, "error": str(error)})


def _is_unreadable(ledger: Ledger, key: str) -> bool:
    return (ledger.get(key) or {}).get("status") == UNREADABLE


def _take(answer: Answer, read: Reader, ledger: Ledger) -> bool:
    """Keeps an answer; whether it could be read."""
    said = {key: value for key, value in asdict(answer).items() if key != "key"}
    try:
        if answer.error is not None:
            raise AnswerError(answer.error)
        ledger.add(answer.key, {**said, "status": "ok", **read(answer)})
    except AnswerError as error:
        ledger.add(answer.key, {**said, "status": ERROR, "error": str(error)})
        return False
    return True
