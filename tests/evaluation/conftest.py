"""Tiny random models of the classes that benchmarks load, saved as folders, and a chat endpoint that misbehaves."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from semantic_routing.config import Config
from semantic_routing.evaluation.geneval.records import CLASSES


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory, language_models: Any) -> Path:
    """A saved pipeline that makes pictures of 32 x 32 at once."""
    from semantic_routing.training.build import (
        build_codec,
        build_pipeline,
        build_prompt_encoder,
        build_transformer,
        resolve_sizes,
    )

    values = {
        "model": {
            "strategy": "depth-wise",
            "num_blocks": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "attention_head_dim": 8,
            "hidden_size": 16,
            "patch_size": 8,
        },
        "text": {"model": str(language_models("qwen3"))},
        "data": {"source": {"source": "scenes"}, "image_size": 32},
        "training": {"output": "unused", "steps": 1, "batch_size": 1},
    }
    config = Config.model_validate(values)
    sizes = resolve_sizes(config)
    torch.manual_seed(0)
    transformer = build_transformer(config, sizes)
    for parameter in transformer.parameters():
        # Zero initial output layers would give the same picture for every prompt and seed.
        nn.init.normal_(parameter, std=0.2)
    cpu = torch.device("cpu")
    pipeline = build_pipeline(config, transformer, build_prompt_encoder(config, sizes, cpu), build_codec(config, cpu))
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mask2Former for COCO's classes."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=8,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("detector")
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with a tokenizer of single letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["-"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return folder


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
    import math

    listed = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in probabilities.items()]
    first = {**listed[0], "top_logprobs": listed}
    message = {"role": "assistant", "content": listed[0]["token"]}
    return {"model": "judge", "choices": [{"index": 0, "message": message, "logprobs": {"content": [first]}}]}


def text_reply(text: str) -> dict[str, Any]:
    return {"model": "judge", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("semantic_routing.endpoint._FIRST_PAUSE", 0.01)
    server = ChatServer()
    yield server
    server.server.shutdown()
    server.server.server_close()
