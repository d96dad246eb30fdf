"""A chat endpoint on this machine that misbehaves as told, and replies to give it."""

import json
import math
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """An OpenAI-compatible endpoint on this machine; `reply` makes the answer to a request's JSON."""

    def __init__(self) -> None:
        self.reply = lambda request: yes_no_reply({"Yes": 0.9, "No": 0.08})
        self.failing = 0.0
        self.delay = 0.0
        self.answered: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.random = random.Random(0)
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner.lock:
                    owner.requests.append(request)
                    luck, how = owner.random.random(), owner.random.choice(("status", "close", "cut"))
                time.sleep(owner.delay)
                body = json.dumps(owner.reply(request)).encode()
                if luck < owner.failing and how == "close":
                    self.close_connection = True
                    return
                self.send_response(503 if luck < owner.failing and how == "status" else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if luck < owner.failing and how == "cut":
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(body)
                if luck >= owner.failing:
                    with owner.lock:
                        owner.answered[question_of(request)] += 1

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, address: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def question_of(request: dict[str, Any]) -> str:
    parts = request["messages"][0]["content"]
    return next(part["text"] for part in parts if part["type"] == "text")


def yes_no_reply(probabilities: dict[str, float]) -> dict[str, Any]:
    listed = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in probabilities.items()]
    first = {**listed[0], "top_logprobs": listed}
    message = {"role": "assistant", "content": listed[0]["token"]}
    return {"model": "judge", "choices": [{"index": 0, "message": message, "logprobs": {"content": [first]}}]}


def text_reply(text: str) -> dict[str, Any]:
    return {"model": "judge", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
