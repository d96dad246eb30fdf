from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, NUM_LAYERS

from semantic_routing.text import TextEncoder, load_language_model, load_tokenizer
from semantic_routing.text.early_exit import first_layers, layer_stack

PROMPTS = ["a red circle", "two blue squares and a green star", ""]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, language_models: Callable[[str], Path]) -> str:
    return str(language_models(request.param))


def count_runs(model: Any) -> list[int]:
    ran: list[int] = []
    stack = layer_stack(model, NUM_LAYERS)
    assert stack is not None
    for number, layer in enumerate(stack):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number + 1))
    return ran


@pytest.mark.parametrize("layers", [[1, 3], [2], [0, 1], [0]])
def test_stopping_early_gives_the_same_hidden_states_and_runs_no_deeper_layer(folder: str, layers: list[int]) -> None:
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    everything = TextEncoder(model, tokenizer, layers=list(range(NUM_LAYERS + 1)))(PROMPTS)
    ran = count_runs(model)
    features = TextEncoder(model, tokenizer, layers=layers)(PROMPTS)
    assert features.hidden_states.equal(everything.hidden_states[:, layers])
    assert features.mask.equal(everything.mask)
    assert max(ran, default=0) == max(layers)


def test_the_last_layer_is_read_after_the_final_norm(folder: str) -> None:
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    input_ids, mask = TextEncoder(model, tokenizer).tokenize(["a red circle"])
    last = model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    seen = TextEncoder(model, tokenizer, layers=[2, NUM_LAYERS])(["a red circle"]).hidden_states
    torch.testing.assert_close(seen[:, 1], last)


def test_a_copy_of_the_first_layers_shares_weights_and_reloads(folder: str, tmp_path: Path) -> None:
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    wanted = TextEncoder(model, tokenizer, layers=[1, 2])(PROMPTS).hidden_states
    short = first_layers(model, 3)
    assert short.config.num_hidden_layers == 3
    assert model.config.num_hidden_layers == NUM_LAYERS
    assert {p.data_ptr() for p in short.parameters()} < {p.data_ptr() for p in model.parameters()}
    assert TextEncoder(short, tokenizer, layers=[1, 2])(PROMPTS).hidden_states.equal(wanted)
    short.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    # Close, not equal: where in memory weights lie decides about the last bit.
    torch.testing.assert_close(TextEncoder(again, tokenizer, layers=[1, 2])(PROMPTS).hidden_states, wanted)
