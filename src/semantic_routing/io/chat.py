"""A client for OpenAI-compatible chat endpoints (vLLM and its like): many requests at once, with limits on each.

`openai`'s client sends, retries and pauses. What is ours: requests run in a thread of their own, so that an interrupt
ends them at once; a reply has a time limit as a whole and a size limit; and whatever is wrong with one reply is that
request's error and nobody else's.
"""

import asyncio
import base64
import io
import json
from collections.abc import Coroutine, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cached_property
from threading import Thread
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, TypeVar

import httpx2
import openai
from PIL import Image

from .files import JsonObject

Messages = list[JsonObject]
Result = TypeVar("Result")

MAX_REPLY_BYTES = 16 * 2**20
"""A chat reply has kilobytes; what is longer than this is no reply."""
_SHOWN = 200
"""Characters of a reply that an error message quotes."""


class EndpointError(RuntimeError):
    """A request that failed for good; the message says why."""


class Request(NamedTuple):
    """One chat request, and by what its reply is known."""

    key: Hashable
    messages: Messages
    options: Mapping[str, object] = MappingProxyType({})


class Reply(NamedTuple):
    """What came back for a request: the endpoint's JSON, or why there is none."""

    key: Hashable
    body: JsonObject | None = None
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
        timeout: seconds for one try, until the whole reply is there.

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
        self.url = base_url.rstrip("/")
        self.model = model
        self.api_key = api_key
        self.workers = workers
        self.retries = retries
        self.timeout = timeout

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Where requests run: an event loop in a thread of its own."""
        loop = asyncio.new_event_loop()

        def run() -> None:
            loop.run_forever()
            loop.close()

        Thread(target=run, name="chat", daemon=True).start()
        return loop

    @cached_property
    def _client(self) -> openai.AsyncOpenAI:
        http = _LimitedClient(
            timeout=self.timeout, limits=httpx2.Limits(max_connections=self.workers), follow_redirects=True
        )
        # Some key must be given; `_complete` does not send this one.
        return openai.AsyncOpenAI(
            base_url=self.url, api_key=self.api_key or "none", max_retries=self.retries, http_client=http
        )

    def close(self) -> None:
        """Ends what is under way and closes the connections."""
        if "_loop" in self.__dict__:
            self._submit(self._end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            del self._loop

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if "_client" in self.__dict__:
            await self._client.close()
            del self._client

    def complete(self, messages: Messages, **options: object) -> JsonObject:
        """One request, repeated after growing pauses while its failure may pass; returns the reply's JSON.

        Args:
            messages: in the protocol's form; see `user_message`.
            options: further fields, such as `temperature` and `max_tokens`.

        Raises:
            EndpointError: it failed for good.
        """
        return self._submit(self._complete(messages, options)).result()

    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Sends requests, `workers` at a time, and yields replies as they come, failed ones with their error.

        Requests are taken from the iterable only as they are sent, so that it may be long and make images on its way.
        """
        running: set[Future[Reply]] = set()
        try:
            for request in requests:
                running.add(self._submit(self._answer(request)))
                if len(running) >= self.workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in running:
                future.cancel()

    def _submit(self, task: Coroutine[object, object, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(task, self._loop)

    async def _answer(self, request: Request) -> Reply:
        try:
            return Reply(request.key, await self._complete(request.messages, request.options))
        except EndpointError as error:
            return Reply(request.key, error=error)

    async def _complete(self, messages: Messages, options: Mapping[str, object]) -> JsonObject:
        payload = {"model": self.model, "messages": messages, **options}
        headers = {} if self.api_key else {"Authorization": openai.omit}
        try:
            # The raw reply: endpoints send fields that the protocol does not know, and leave out others.
            response = await self._client.post(
                "/chat/completions", cast_to=httpx2.Response, body=payload, options={"headers": headers}
            )
            return _parse(response)
        except openai.APIStatusError as error:
            text = error.response.text[:_SHOWN].strip()
            raise EndpointError(f"{self.url} refused the request: HTTP {error.status_code}: {text}") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise EndpointError(
                f"{self.url} failed {self.retries + 1} times, the last time with {type(cause).__name__}: {cause}"
            ) from error
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            raise EndpointError(f"{self.url}: {type(error).__name__}: {str(error)[:_SHOWN]}") from error


class _LimitedClient(httpx2.AsyncClient):
    """Reads whole replies, within a time limit for all of it and a limit of bytes after decompression."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """The reply, read to its end; failures are those that `openai` takes for passing ones."""
        limit = self.timeout.read
        body = bytearray()
        try:
            async with asyncio.timeout(limit):
                response = await super().send(request, stream=True, **options)
                try:
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_REPLY_BYTES:
                            raise httpx2.ReadError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no whole reply within {limit:g} s") from error
        headers = [
            (name, value)
            for name, value in response.headers.raw
            if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
        ]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


def user_message(text: str, *images: Image.Image, image_format: str = "PNG") -> JsonObject:
    """A user's message of images, then text; images travel inside it."""
    parts: Messages = [{"type": "image_url", "image_url": {"url": image_url(image, image_format)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def image_url(image: Image.Image, image_format: str = "PNG", quality: int | None = None) -> str:
    """An image as a data address; `quality` is of JPEG, 1 to 95, and None is Pillow's own."""
    buffer = io.BytesIO()
    options = {} if quality is None else {"quality": quality}
    image.convert("RGB").save(buffer, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def reply_text(body: JsonObject) -> str:
    """The text of a reply's first choice.

    Raises:
        EndpointError: there is none.
    """
    try:
        text = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError(f"The reply has no message: {str(body)[:_SHOWN]}") from error
    if not isinstance(text, str) or not text.strip():
        raise EndpointError(f"The reply's message has no text: {str(body)[:_SHOWN]}")
    return text.strip()


def _is_address(url: str) -> bool:
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL:
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _parse(response: httpx2.Response) -> JsonObject:
    """The reply's JSON object, every text of which can be written to a file.

    Raises:
        EndpointError: it is none.
    """
    try:
        body = json.loads(response.content)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise EndpointError(f"The reply is not JSON ({type(error).__name__}): {response.text[:_SHOWN]!r}") from error
    if not isinstance(body, dict):
        raise EndpointError(f"The reply is {type(body).__name__}, not an object: {response.text[:_SHOWN]}")
    return body
