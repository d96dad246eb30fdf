"""Tiny random models of the classes that benchmarks load, saved as folders, and a chat endpoint that misbehaves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_endpoint import ChatServer
from torch import nn

from semantic_routing.evaluation.geneval.records import CLASSES
from semantic_routing.training.config import Config


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


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    server = ChatServer()
    yield server
    server.server.shutdown()
    server.server.server_close()
