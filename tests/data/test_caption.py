"""Recaptioning and the chat client against a real HTTP server that speaks the protocol."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from semantic_routing.cli import app
from semantic_routing.data import ExampleStream, FolderSource
from semantic_routing.data.caption import CaptionOptions, caption_images
from semantic_routing.io.chat import ChatClient, EndpointError, Request


class Endpoint(ThreadingHTTPServer):
    """Describes an image by its size and first pixel; can fail on order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []  # answered first, one a request
        self.refuse: set[str] = set()  # captions never given
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.running = self.most = 0
        self.delay = 0.0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        endpoint = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with endpoint.lock:
            endpoint.requests.append(body)
            endpoint.keys.append(self.headers.get("Authorization"))
            endpoint.running += 1
            endpoint.most = max(endpoint.most, endpoint.running)
            status = endpoint.statuses.pop(0) if endpoint.statuses else 200
        time.sleep(endpoint.delay)
        answer = self.answer(body, status)
        with endpoint.lock:
            endpoint.running -= 1
        self.send_response(answer[0])
        if answer[0] == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    def answer(self, body: dict[str, Any], status: int) -> tuple[int, bytes]:
        if self.path != "/v1/chat/completions":
            return 404, b"no such path"
        if status != 200:
            return status, b"not now"
        caption = describe(body)
        if caption in self.server.refuse:
            return 400, b"this one never"
        return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": f" {caption}\n"}}]}).encode()

    def log_message(self, *args: Any) -> None:
        pass


def describe(body: dict[str, Any]) -> str:
    """Reads the picture out of a request, as a model would have to."""
    image_part, text_part = body["messages"][0]["content"]
    assert text_part["type"] == "text"
    data = image_part["image_url"]["url"].partition("base64,")[2]
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    return f"{image.width}x{image.height}, {round(image.getpixel((2, 2))[0] / 20)}"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eleven images of their own grey and two records of one more."""
    lines = []
    for index in range(12):
        Image.new("RGB", (24, 16), (20 * index,) * 3).save(tmp_path / f"{index}.png")
        lines.append({"image": f"{index}.png", "text": f"old {index}", "source": "test"})
    lines.append({"image": "11.png", "text": "old 11 again"})
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["image"], []).append(record)
    return found


def run(data: Path, endpoint: Endpoint, out: Path, options: CaptionOptions | None = None, **client: Any) -> Any:
    with ChatClient(endpoint.url, "a-model", **{"retries": 2, "workers": 4, **client}) as chat:
        return caption_images(FolderSource(path=data), out, chat, options or CaptionOptions())


def test_captions_are_written_beside_the_old_ones(data: Path, endpoint: Endpoint) -> None:
    out = data.with_name("new.jsonl")
    report = run(data, endpoint, out, CaptionOptions(prompt="Say it.", max_tokens=7), api_key="secret")
    assert (report.written, report.already_there, report.broken, report.failed) == (12, 0, [], [])
    records = read(out)
    for index in range(12):
        first = records[f"{index}.png"][0]
        assert first["text"] == f"24x16, {index}"
        assert first["original_text"] == f"old {index}"
        assert first["source"] == "test"
    assert [record["original_text"] for record in records["11.png"]] == ["old 11", "old 11 again"]
    request = endpoint.requests[0]
    assert (request["model"], request["max_tokens"]) == ("a-model", 7)
    assert request["messages"][0]["content"][1]["text"] == "Say it."
    assert set(endpoint.keys) == {"Bearer secret"}


def test_many_at_once_but_not_more(data: Path, endpoint: Endpoint) -> None:
    endpoint.delay = 0.05
    run(data, endpoint, data.with_name("new.jsonl"), workers=3)
    assert endpoint.most == 3


def test_large_images_are_sent_smaller(data: Path, endpoint: Endpoint) -> None:
    out = data.with_name("new.jsonl")
    run(data, endpoint, out, CaptionOptions(image_side=12))
    assert read(out)["3.png"][0]["text"] == "12x8, 3"


def test_failures_that_pass_are_tried_again(data: Path, endpoint: Endpoint) -> None:
    endpoint.statuses = [500, 429, 503]
    report = run(data, endpoint, data.with_name("new.jsonl"))
    assert report.written == 12
    assert len(endpoint.requests) == 15


def test_it_goes_on_where_it_was(data: Path, endpoint: Endpoint) -> None:
    out = data.with_name("new.jsonl")
    endpoint.refuse = {"24x16, 4", "24x16, 7"}
    report = run(data, endpoint, out)
    assert report.written == 10
    assert sorted(text.partition(":")[0] for text in report.failed) == ["4.png", "7.png"]
    assert all("HTTP 400: this one never" in text for text in report.failed)
    with out.open("a") as file:
        file.write('{"image": "4.png", "text": "half a li')
    endpoint.refuse, asked = set(), len(endpoint.requests)
    report = run(data, endpoint, out)
    assert (report.written, report.already_there, len(endpoint.requests) - asked) == (2, 10, 2)
    assert read(out).keys() == {f"{index}.png" for index in range(12)}
    again = run(data, endpoint, out)
    assert (again.written, again.already_there) == (0, 12)


@pytest.mark.parametrize(
    "content",
    [
        b"remember the milk",
        b"remember the milk\n",
        b'{"image": "4.png", "text": "by hand"}\n',
        b'{"image": "99.png", "text": "x", "original_text": "old"}\n',
        b'{"a": ',
        b"\xff\xfe",
        b"\n",
        b"[" * 100_000,
        b'{"image": "0.png", "text": "x", "source": "test", "original_text": "old 0"}\nmilk\n',
    ],
)
def test_a_file_of_somebody_elses_is_left_alone(data: Path, endpoint: Endpoint, content: bytes) -> None:
    out = data.with_name("notes.txt")
    out.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"notes\.txt holds a line that this command did not write for .*; name another"
    ):
        run(data, endpoint, out)
    assert out.read_bytes() == content
    assert not endpoint.requests


def test_a_file_cut_anywhere_is_completed(data: Path, endpoint: Endpoint) -> None:
    whole = data.with_name("new.jsonl")
    run(data, endpoint, whole, workers=1)
    lines = whole.read_bytes()
    ends = [len(b"".join(lines.splitlines(keepends=True)[:number])) for number in (11, 12, 13)]
    for cut in (0, 1, 5, 100, ends[0] + 3, ends[1], ends[1] + 40, ends[2]):
        out = data.with_name(f"cut-{cut}.jsonl")
        out.write_bytes(lines[:cut])
        run(data, endpoint, out, workers=1)
        assert out.read_bytes() == lines, cut


def test_recaptioning_keeps_the_first_original(data: Path, endpoint: Endpoint) -> None:
    out, third = data.with_name("new.jsonl"), data.with_name("newer.jsonl")
    run(data, endpoint, out)
    run(out, endpoint, third)
    assert read(third)["5.png"][0]["original_text"] == "old 5"


def test_broken_images_are_counted_and_too_many_stop(data: Path, endpoint: Endpoint) -> None:
    out = data.with_name("new.jsonl")
    data.with_name("3.png").write_bytes(b"not an image")
    report = run(data, endpoint, out, CaptionOptions(max_broken=0.1))
    assert report.written == 11
    assert len(report.broken) == 1
    assert report.broken[0].startswith("3.png: cannot identify")
    with pytest.raises(ValueError, match=r"1 of 12 images are broken, more than 1\.00%: 3\.png"):
        run(data, endpoint, data.with_name("other.jsonl"))


def test_an_endpoint_that_only_fails_is_left(data: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semantic_routing.data.caption.MAX_FAILURES", 5)
    endpoint.statuses = [401] * 100
    with pytest.raises(OSError, match=r"5 requests in a row failed, the last one: .*HTTP 401: not now"):
        run(data, endpoint, data.with_name("new.jsonl"))
    assert len(endpoint.requests) < 12


def test_mistakes(data: Path, endpoint: Endpoint) -> None:
    with pytest.raises(ValueError, match="is the data itself"):
        run(data, endpoint, data)
    with pytest.raises(ValueError, match="must be one of http:// or https://, not 'localhost:8000'"):
        ChatClient("localhost:8000", "a-model")
    with pytest.raises(ValueError, match="at least 1 worker"):
        ChatClient(endpoint.url, "a-model", workers=0)


def test_the_client_says_why(endpoint: Endpoint) -> None:
    closed = ChatClient("http://127.0.0.1:9", "a-model", retries=1)
    with pytest.raises(EndpointError, match="failed 2 times, the last time with ConnectError"):
        closed.complete([])
    replies = list(closed.map([Request(key, []) for key in "ab"]))
    assert {reply.key for reply in replies} == {"a", "b"}
    assert all("ConnectError" in str(reply.error) for reply in replies)
    endpoint.delay = 0.5
    with pytest.raises(EndpointError, match="ReadTimeout"):
        ChatClient(endpoint.url, "a-model", retries=0, timeout=0.05).complete([{"role": "user", "content": []}])


def test_training_mixes_old_and_new_by_rate(data: Path, endpoint: Endpoint) -> None:
    out = data.with_name("new.jsonl")
    run(data, endpoint, out)
    source = FolderSource(path=out).open(16, 0)
    captions = {
        rate: [ExampleStream(source, 16, 0, original_caption_rate=rate)[n].captions[0] for n in range(90)]
        for rate in (0.0, 0.3, 1.0)
    }
    shares = {rate: sum(text.startswith("old") for text in texts) / 90 for rate, texts in captions.items()}
    assert shares[0.0] == 0
    assert shares[1.0] == 1
    assert 0.15 < shares[0.3] < 0.45
    with pytest.raises(ValueError, match=r"original_caption_rate is 0\.5, but the data keeps no original captions"):
        ExampleStream(FolderSource(path=data).open(16, 0), 16, 0, original_caption_rate=0.5)


def test_the_command(data: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "new.jsonl"
    arguments = ["caption", str(data), str(out), "--endpoint", endpoint.url, "--model", "m", "--workers", "2"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Captioned 12 images" in result.output
    assert f"data.source.image_root={tmp_path}" in result.output
    endpoint.refuse = {"24x16, 4"}
    out.unlink()
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 1
