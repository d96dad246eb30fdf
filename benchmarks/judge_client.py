"""Asks a faulty local endpoint thousands of questions, is killed, goes on, counts: `python -m benchmarks.judge_client`.

The endpoint refuses, breaks off and cuts replies short. At the end every question is answered or named, none was
answered twice but for those on their way when the process was killed, and the second run asks only for what is left.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from semantic_routing.io.files import write_json
from semantic_routing.io.jsonl import read_lines

from .common import OUT

PER_IMAGE = 10
ASK = """
import sys
from pathlib import Path
import openai._base_client
from semantic_routing.evaluation import GenEval2
from semantic_routing.evaluation.judges import JudgeOptions
from semantic_routing.evaluation.runner import score
openai._base_client.INITIAL_RETRY_DELAY = 0.01
out, url, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
judge = JudgeOptions(judge_model=["judge"], judge_url=[url], judge_check=False, workers=workers, timeout=20.0)
print(score(GenEval2(str(out / "prompts.jsonl"), judge), out, partial=True).remark)
"""


class FaultyEndpoint:
    """An OpenAI-compatible endpoint that fails a share of its requests in three ways."""

    def __init__(self, failing: float) -> None:
        self.answered: Counter[str] = Counter()
        self.requests = 0
        lock, luck = threading.Lock(), random.Random(0)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = request["messages"][0]["content"][-1]["text"]
                with lock:
                    owner.requests += 1
                    fault = luck.choice(("status", "close", "cut")) if luck.random() < failing else ""
                body = json.dumps(_REPLY).encode()
                self.close_connection = fault in ("close", "cut")
                if fault == "close":
                    return
                self.send_response(503 if fault == "status" else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
                if not fault:
                    with lock:
                        owner.answered[question] += 1

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: Any, address: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


_FIRST = [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -2.4}]
_REPLY = {
    "model": "judge",
    "choices": [{"message": {"content": "Yes"}, "logprobs": {"content": [{**_FIRST[0], "top_logprobs": _FIRST}]}}],
}


def run(questions: int, workers: int, failing: float, folder: Path) -> dict[str, Any]:
    """Asks, kills, asks again; returns what was counted."""
    images = questions // PER_IMAGE
    (folder / "images").mkdir(parents=True)
    with (folder / "prompts.jsonl").open("w") as file:
        for n in range(images):
            asked = [[f"Is it {n} {k}?", "Yes"] for k in range(PER_IMAGE)]
            line = {"prompt": f"thing {n}", "atom_count": 3, "vqa_list": asked, "skills": ["object"] * PER_IMAGE}
            file.write(json.dumps(line) + "\n")
            Image.new("RGB", (8, 8), (n % 256, n // 256, 0)).save(folder / "images" / f"{n}.png")
    endpoint = FaultyEndpoint(failing)
    command = [sys.executable, "-c", ASK, str(folder), endpoint.url, str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(endpoint.answered.values()) < questions // 3:
        if first.poll() is not None:
            raise RuntimeError("The first run ended before it could be killed.")
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(1)
    kept, before = len(read_lines(folder / "answers.jsonl")), Counter(endpoint.answered)
    remark = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    entries = Counter(entry["key"] for entry in read_lines(folder / "answers.jsonl") if entry["status"] == "ok")
    return {
        "questions": questions,
        "workers": workers,
        "failing": failing,
        "requests": endpoint.requests,
        "answered before the kill": sum(before.values()),
        "kept of them": kept,
        "answered in the end": len(endpoint.answered),
        "verdicts": len(entries),
        "verdicts written twice": sum(count > 1 for count in entries.values()),
        "answered twice": sum(count > 1 for count in endpoint.answered.values()),
        "of which on their way at the kill": sum(before.values()) - kept,
        "remark": remark,
    }


def main() -> None:
    """Prints what was counted, and writes it to `judge_client.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--failing", type=float, default=0.1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(options.questions, options.workers, options.failing, Path(folder) / "run")
    print(json.dumps(found, indent=1))
    write_json(OUT / "judge_client.json", found)


if __name__ == "__main__":
    main()
