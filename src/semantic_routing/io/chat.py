"""A client for OpenAI-compatible chat endpoints (vLLM and its like): many requests at once, with patience."""

import base64
import io
import random
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

import httpx2
from PIL import Image

Messages = list[dict[str, Any]]

# Statuses that may be gone on another try: timeouts, too many requests, and whatever goes wrong behind a gateway.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}
_FIRST_PAUSE = 0.5  # seconds, doubled at every further try
_LONGEST_PAUSE = 60.0


class EndpointError(RuntimeError):
    """A request that failed for good; the message says why."""


class Request(NamedTuple):
    """One chat request, and by what its reply is known."""

    key: Hashable
    messages: Messages
    options: Mapping[str, Any] = MappingProxyType({})


class Reply(NamedTuple):
    """What came back for a request: the endpoint's JSON, or why there is none."""

    key: Hashable
    body: dict[str, Any] | None = None
    error: EndpointError | None = None

    def text(self) -> str:
        """The first choice's text.

        Raises:
            EndpointError: the request failed, or the reply has no text.
        """
        if self.error is not None:
            raise self.error
        return reply_text(self.body or {})


class ChatClient:
    """Sends chat requests; safe to use from several threads.

    Args:
        base_url: such as `http://localhost:8000/v1`.
        model: the name that the endpoint serves.
        api_key: sent as a bearer token.
        workers: requests at a time.
        retries: tries after the first, where the failure may pass.
        timeout: seconds for one try.

    Raises:
        ValueError: the address is not one of http or https, or a number is out of range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        workers: int = 8,
        retries: int = 5,
        timeout: float = 120.0,
    ) -> None:
        if not _is_address(base_url):
            raise ValueError(f"The endpoint's address must be one of http:// or https://, not {base_url!r}.")
        if workers < 1 or retries < 0 or timeout <= 0:
            raise ValueError(
                f"An endpoint needs at least 1 worker, 0 retries and a timeout above 0, "
                f"not {workers}, {retries} and {timeout}."
            )
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model = model
        self.workers = workers
        self.retries = retries
        self._http = httpx2.Client(
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=timeout,
            limits=httpx2.Limits(max_connections=workers),
        )

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def complete(self, messages: Messages, **options: Any) -> dict[str, Any]:
        """One request, repeated after growing pauses while its failure may pass; returns the reply's JSON.

        Args:
            messages: in the protocol's form; see `user_message`.
            options: further fields, such as `temperature` and `max_tokens`.

        Raises:
            EndpointError: it failed for good.
        """
        payload = {"model": self.model, "messages": messages, **options}
        for attempt in range(self.retries + 1):
            try:
                response = self._http.post(self.url, json=payload)
            except httpx2.TransportError as error:
                reason, wanted_pause = f"{type(error).__name__}: {error}", None
            else:
                if response.is_success:
                    return _parse(response)
                reason = f"HTTP {response.status_code}: {response.text[:200].strip()}"
                if response.status_code not in _PASSING:
                    raise EndpointError(f"{self.url} refused the request: {reason}")
                wanted_pause = _retry_after(response)
            if attempt < self.retries:
                time.sleep(_pause(attempt, wanted_pause))
        raise EndpointError(f"{self.url} failed {self.retries + 1} times, the last time with {reason}")

    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Sends requests, `workers` at a time, and yields replies as they come, failed ones with their error.

        Requests are taken from the iterable only as they are sent, so that it may be long and make images on its way.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            running: set[Future[Reply]] = set()
            try:
                for request in requests:
                    running.add(pool.submit(self._answer, request))
                    if len(running) >= self.workers:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                for future in running:
                    future.cancel()

    def _answer(self, request: Request) -> Reply:
        try:
            return Reply(request.key, self.complete(request.messages, **request.options))
        except EndpointError as error:
            return Reply(request.key, error=error)


def user_message(text: str, *images: Image.Image, image_format: str = "PNG") -> dict[str, Any]:
    """A user's message of images, then text; images travel inside it."""
    parts: Messages = [{"type": "image_url", "image_url": {"url": image_url(image, image_format)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def image_url(image: Image.Image, image_format: str = "PNG", **options: Any) -> str:
    """An image as a data address; `options` are Pillow's for saving in that format."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def reply_text(body: dict[str, Any]) -> str:
    """The text of a reply's first choice.

    Raises:
        EndpointError: there is none.
    """
    try:
        text = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError(f"The reply has no message: {str(body)[:200]}") from error
    if not isinstance(text, str) or not text.strip():
        raise EndpointError(f"The reply's message has no text: {str(body)[:200]}")
    return text.strip()


def _is_address(url: str) -> bool:
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL:
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _parse(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise EndpointError(f"The reply is not JSON: {response.text[:200]}") from error
    if not isinstance(body, dict):
        raise EndpointError(f"The reply is {type(body).__name__}, not an object: {response.text[:200]}")
    return body


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the endpoint asks to wait; a date, its rarer form, is not understood."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


def _pause(attempt: int, wanted: float | None) -> float:
    """Seconds before the next try, spread so that many workers do not come back at once."""
    growing = _FIRST_PAUSE * 2.0**attempt * random.uniform(0.5, 1.5)
    return min(max(growing, wanted or 0.0), _LONGEST_PAUSE)
