"""What is remembered is what the language model gives, to the bit, and it reads a prompt once while that is kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import CAPTIONS

from semantic_routing.text import TextEncoder

Models = Callable[[str], Path]

BATCHES = [[*CAPTIONS, "star"], ["star", "", "two red stars", CAPTIONS[0]], ["two red stars", "star", ""]]
LARGE = 2**20


def read_prompts(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that are read by the language model from now on."""
    seen: list[str] = []
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda prompts: seen.extend(prompts) or encode(prompts))
    return seen


def test_remembered_features_are_those_of_the_language_model(
    language_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(language_models("qwen3"))
    plain, encoder = (TextEncoder.load(folder, torch.bfloat16) for _ in range(2))
    encoder.use_memory(LARGE)
    seen = read_prompts(encoder, monkeypatch)
    for batch in BATCHES:
        found, wanted = encoder(batch), plain(batch)
        assert found.mask.equal(wanted.mask)
        assert found.hidden_states.equal(wanted.hidden_states)
        found.hidden_states.zero_()  # what a caller does to them is not remembered
    assert seen == [*dict.fromkeys(CAPTIONS), "star", "", "two red stars"]


def test_prompts_used_longest_ago_go_first(language_models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.load(str(language_models("qwen3")), torch.bfloat16)
    encoder.use_memory(encoder(["star"]).hidden_states.nbytes * 2)
    seen = read_prompts(encoder, monkeypatch)
    for prompt in ("star", "red", "star", "blue", "star", "red"):
        encoder([prompt])
    assert seen == ["star", "red", "blue", "red"]


def test_nothing_is_remembered_in_another_precision(language_models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.load(str(language_models("qwen3")))
    encoder.use_memory(LARGE)
    assert encoder.memory is None
    with torch.autocast("cpu", torch.bfloat16):
        encoder.use_memory(LARGE)
        encoder(["star"])
    seen = read_prompts(encoder, monkeypatch)
    encoder(["star"])
    assert seen == ["star"]
