"""A judge behind an OpenAI-compatible endpoint."""

from collections.abc import Iterable, Iterator

from PIL import Image

from ...io.chat import ChatClient, EndpointError, Reply, Request, image_url, reply_text
from ...io.files import JsonObject
from .base import Answer, Form, Judge, Question

TOP_LOGPROBS = 20
FAILURES_IN_A_ROW = 2
"""An endpoint that fails this many times as many requests in a row as it is sent at once is down."""


NO_LOGPROBS = (
    f"the reply has no log-probabilities, which this score needs; serve the judge with {TOP_LOGPROBS} of them "
    f"(vLLM: --max-logprobs {TOP_LOGPROBS})"
)


class EndpointJudge(Judge):
    """Asks over the network, many questions at once.

    Args:
        client: for the endpoint; its `model` is the judge.
        revision: of the model, as its user says.
    """

    def __init__(self, client: ChatClient, revision: str | None = None) -> None:
        self.client = client
        self.revision = revision

    @property
    def identity(self) -> JsonObject:
        """The model's name and revision; the address may change without changing answers."""
        revision = {"revision": self.revision} if self.revision else {}
        return {"judge": "endpoint", "model": self.client.model, **revision}

    def try_out(self, form: Form) -> None:
        """Asks about a gray picture.

        Raises:
            ValueError: no answer came, or one without the log-probabilities that are wanted.
        """
        picture = Image.new("RGB", (64, 64), "gray")
        with self.client:
            (answer,) = self.ask([Question("trial", picture, "Is this picture gray? Answer in one word.")], form)
        if answer.error is not None:
            raise ValueError(f"The judge {self.client.model} cannot be asked: {answer.error}.")

    def ask(self, questions: Iterable[Question], form: Form) -> Iterator[Answer]:
        """Yields answers as they come; once the endpoint is down, what is left gets that as its error."""
        questions = iter(questions)
        failures = 0
        down = None
        for reply in self.client.map(self._request(question, form) for question in questions):
            answer = read_reply(reply, form)
            failures = failures + 1 if answer.error else 0
            yield answer
            if failures >= FAILURES_IN_A_ROW * self.client.workers:
                down = f"not asked, since {failures} requests in a row had failed: {answer.error}"
                break
        if down is not None:
            yield from (Answer(question.key, error=down) for question in questions)

    def _request(self, question: Question, form: Form) -> Request:
        return Request(question.key, [{"role": "user", "content": _content(question, form)}], _options(question, form))


def _content(question: Question, form: Form) -> list[JsonObject]:
    url = image_url(question.image, "JPEG", quality=95) if form.encoding == "jpeg95" else image_url(question.image)
    image = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": question.text}
    return [image, text] if form.image_first else [text, image]


def _options(question: Question, form: Form) -> JsonObject:
    options = {"temperature": question.temperature, "max_tokens": form.max_tokens}
    return {**options, "logprobs": True, "top_logprobs": TOP_LOGPROBS} if form.first_token else options


def read_reply(reply: Reply, form: Form) -> Answer:
    """What a reply says; a reply without the text or the log-probabilities that were asked for is an error."""
    key = str(reply.key)
    if reply.error is not None:
        return Answer(key, error=str(reply.error))
    body = reply.body or {}
    about = {name: body[name] for name in ("model", "system_fingerprint") if body.get(name)}
    try:
        if not form.first_token:
            return Answer(key, text=reply_text(body), about=about)
        choice = body["choices"][0]
        if choice.get("message") and not choice.get("logprobs"):
            return Answer(key, about=about, error=NO_LOGPROBS)
        listed = choice["logprobs"]["content"][0]["top_logprobs"]
        alternatives = [(str(entry["token"]), float(entry["logprob"])) for entry in listed]
        text = (choice.get("message") or {}).get("content") or ""
    except (EndpointError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return Answer(key, about=about, error=f"no answer in the reply ({error}): {str(body)[:300]}")
    return Answer(key, text, alternatives, about)
