"""The chat client against endpoints that misbehave: one bad reply is one error, in bounded time."""

import gzip
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from semantic_routing.io import chat
from semantic_routing.io.chat import ChatClient, EndpointError, Request, reply_text, user_message

GOOD = json.dumps({"choices": [{"message": {"role": "assistant", "content": "fine"}}]}).encode()
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers requests as told, one after the other, and then well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.keys: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers.get("Authorization"))
        (self.server.answers.pop(0) if self.server.answers else reply(GOOD))(self)

    def log_message(self, *args: object) -> None:
        pass


def reply(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(start: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        for _ in range(200):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


BAD = {
    "gzip that is none": (reply(b"\x1f\x8b no gzip", Content_Encoding="gzip"), "DecodingError"),
    "JSON too deep": (reply(b"[" * 200_000), "not JSON"),
    "no JSON": (reply(b"<html>"), "not JSON"),
    "no UTF-8": (reply(b'{"choices": "\xff"}'), "not JSON"),
    "half a surrogate pair": (reply(b'{"choices": [{"message": {"content": "\\ud83d"}}]}'), "not JSON"),
    "a number too long": (reply(b'{"created": ' + b"1" * 5000 + b"}"), "not JSON"),
    "a list": (reply(b"[]"), "not an object"),
    "a refusal": (reply(b"too many images", 400), "HTTP 400: too many images"),
    "a long reply": (reply(b" " * 3000), "longer than 2000 bytes"),
    "a bomb": (reply(gzip.compress(b" " * 100_000), Content_Encoding="gzip"), "longer than 2000 bytes"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_reply_is_one_error(server: Server, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_REPLY_BYTES", 300_000 if "JSON" in fault or "number" in fault else 2000)
    answer, message = BAD[fault]
    server.answers = [answer]
    with ChatClient(server.url, "m", workers=1, retries=0) as client:
        bad, good = client.map([Request(key, [user_message("hello")]) for key in "ab"])
    assert bad.key == "a"
    assert message in str(bad.error)
    assert good.text() == "fine"


def test_half_a_surrogate_pair_in_a_question_is_an_error_too(server: Server) -> None:
    with ChatClient(server.url, "m", workers=1) as client:
        bad, good = client.map([Request(text, [user_message(text)]) for text in ("\ud83d", "hello")])
    assert bad.error is not None
    assert good.text() == "fine"


@pytest.mark.parametrize("wait", ["²", "-1", "nan", "Wed, 99 Foo", "99999999999999999999"])
def test_a_pause_that_is_no_number_is_not_kept(server: Server, wait: str) -> None:
    server.answers = [reply(b"busy", 503, Retry_After=wait)]
    started = time.monotonic()
    with ChatClient(server.url, "m", retries=1) as client:
        reply_to = next(client.map([Request("a", [])]))
    # A pause of centuries is a refusal.
    assert (reply_to.error is None) == (wait != "99999999999999999999")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Long: "], ids=["body", "header"]
)
def test_a_reply_that_drips_hits_the_limit(server: Server, start: bytes) -> None:
    server.answers = [drip(start)]
    started = time.monotonic()
    with (
        ChatClient(server.url, "m", retries=0, timeout=0.3) as client,
        pytest.raises(EndpointError, match=r"ReadTimeout: no whole reply within 0\.3 s"),
    ):
        client.complete([])
    assert time.monotonic() - started < 3


def test_only_the_key_that_was_given_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of another endpoint")
    for key in (None, "mine"):
        with ChatClient(server.url, "m", key) as client:
            assert reply_text(client.complete([])) == "fine"
    assert server.keys == [None, "Bearer mine"]


INTERRUPTED = """
import sys
from semantic_routing.io.chat import ChatClient, Request
def requests():
    for key in range(100):
        print("asked", flush=True)
        yield Request(key, [])
with ChatClient(sys.argv[1], "m", workers=3, retries=5) as client:
    list(client.map(requests()))
"""


def test_an_interrupt_waits_for_nothing(server: Server) -> None:
    server.answers = [lambda handler: time.sleep(60)] * 3
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    while len(server.keys) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT
    assert time.monotonic() - sent < 10
