"""Only the layers that are read are kept, and what is read of them is what the whole model gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES
from torch import Tensor

from semantic_routing.text import KeyValueEncoder, TextEncoder, load_language_model, load_tokenizer
from semantic_routing.text.depth import first_layers, layer_stack, shorten
from semantic_routing.text.tiny import NUM_LAYERS, tiny_tokenizer

Models = Callable[[str], Path]

PROMPTS = ["a red circle", "two blue squares and a green star", ""]
FINAL_NORMS = {
    "t5": lambda model: model.encoder.final_layer_norm,
    "umt5": lambda model: model.encoder.final_layer_norm,
    "bert": lambda model: torch.nn.Identity(),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(family: str, language_models: Models) -> str:
    return str(language_models(family))


def outputs(model: Any, prompt: str) -> list[Tensor]:
    """What each layer of the whole model gives, its input first and what follows the final norm last."""
    seen: list[Tensor] = []
    stack = layer_stack(model, NUM_LAYERS)
    assert stack is not None
    stack[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    for layer in stack:
        layer.register_forward_hook(
            lambda layer, inputs, output: seen.append(output if isinstance(output, Tensor) else output[0])
        )
    input_ids = torch.tensor([tiny_tokenizer()(prompt)["input_ids"]])
    last = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state
    return [*seen, last]


@pytest.mark.parametrize("layers", [[1, 3], [2], [0, 1], [0]])
def test_layers_that_are_not_read_are_neither_loaded_nor_kept(folder: str, layers: list[int]) -> None:
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    everything = TextEncoder(model, tokenizer, layers=list(range(NUM_LAYERS + 1)))(PROMPTS)
    expected = outputs(load_language_model(folder), PROMPTS[0])
    for encoder in (TextEncoder(model, tokenizer, layers), TextEncoder.load(folder, layers=layers)):
        depth = encoder.model.config.num_hidden_layers
        assert depth == max(1, *layers)
        assert layer_stack(encoder.model, depth) is not None
        assert (encoder.layers, encoder.last_layer) == (layers, "raw")
        features = encoder(PROMPTS)
        assert features.mask.equal(everything.mask)
        # Close, not equal: where in memory weights lie decides about the last bit.
        torch.testing.assert_close(features.hidden_states, everything.hidden_states[:, layers], rtol=1e-6, atol=1e-6)
        for states, layer in zip(encoder(PROMPTS[:1]).hidden_states[0], layers, strict=True):
            torch.testing.assert_close(states, expected[layer][0], rtol=1e-6, atol=1e-6)
    assert TextEncoder(model, tokenizer, layers)(PROMPTS).hidden_states.equal(everything.hidden_states[:, layers])


@pytest.mark.parametrize("tied", [True, False, None])
def test_the_last_layer_is_read_after_or_before_the_final_norm(family: str, folder: str, tied: bool | None) -> None:
    *_, raw, normalized = outputs(load_language_model(folder), "a red circle")
    model = load_language_model(folder)
    # What `hidden_states[-1]` is in `transformers`: with False it comes before the norm, else after it.
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.tie_last_hidden_states = tied
    for last_layer, expected in (("normalized", normalized), ("raw", raw)):
        encoder = TextEncoder(model, tiny_tokenizer(), layers=[2, NUM_LAYERS], last_layer=last_layer)
        assert encoder.last_layer == last_layer
        torch.testing.assert_close(encoder(["a red circle"]).hidden_states[:, 1], expected, rtol=1e-6, atol=1e-6)
    norm = FINAL_NORMS.get(family, lambda model: model.norm)(model)
    torch.testing.assert_close(norm(raw), normalized)
    assert raw.equal(normalized) == (family == "bert")


def test_a_model_with_heads_is_read_without_them(language_models: Models) -> None:
    import transformers

    for name, family in (
        ("Qwen3ForCausalLM", "qwen3"),
        ("Qwen3VLForConditionalGeneration", "qwen3-vl"),
        ("BertForMaskedLM", "bert"),
    ):
        folder = str(language_models(family))
        whole = getattr(transformers, name).from_pretrained(folder).eval()
        for last_layer in ("normalized", "raw"):
            expected = TextEncoder.load(folder, layers=[1, NUM_LAYERS], last_layer=last_layer)
            encoder = TextEncoder(whole, tiny_tokenizer(), [1, NUM_LAYERS], last_layer=last_layer)
            torch.testing.assert_close(encoder(PROMPTS).hidden_states, expected(PROMPTS).hidden_states)
    t5 = transformers.T5ForConditionalGeneration.from_pretrained(language_models("t5"))
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has a decoder"):
        TextEncoder(t5, tiny_tokenizer())


def test_a_model_that_is_given_stays_as_it_is(folder: str) -> None:
    model = load_language_model(folder)
    before = {name: (weight.data_ptr(), weight.clone()) for name, weight in model.state_dict().items()}
    config, modules = model.config.to_dict(), dict(model.named_modules())
    encoder = TextEncoder(model, tiny_tokenizer(), layers=[2])
    encoder(PROMPTS)
    encoder.model.to(torch.float64)
    assert model.config.to_dict() == config
    assert dict(model.named_modules()) == modules
    for name, weight in model.state_dict().items():
        assert (weight.data_ptr(), weight.dtype) == (before[name][0], before[name][1].dtype)
        assert weight.equal(before[name][1])
    assert not [module for module in model.modules() if module._forward_pre_hooks]


def test_a_copy_of_the_first_layers_shares_weights_and_reloads(folder: str, tmp_path: Path) -> None:
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    wanted = TextEncoder(model, tokenizer, layers=[1, 2])(PROMPTS).hidden_states
    short = first_layers(model, 2)
    assert short.config.num_hidden_layers == 2
    assert {p.data_ptr() for p in short.parameters()} < {p.data_ptr() for p in model.parameters()}
    short.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    reread = TextEncoder(again, tokenizer, layers=[1, 2], last_layer="raw")(PROMPTS).hidden_states
    torch.testing.assert_close(reread, wanted)


def test_keys_and_values_of_the_first_layers(language_models: Models) -> None:
    for family in ("qwen3", "qwen3-vl", "llama"):
        folder = str(language_models(family))
        everything = KeyValueEncoder.load(folder)(PROMPTS).hidden_states
        encoder = KeyValueEncoder.load(folder, layers=[0, 2])
        assert encoder.model.config.num_hidden_layers == 3
        torch.testing.assert_close(encoder(PROMPTS).hidden_states, everything[:, [0, 2]])


def test_layers_within_a_layer_are_not_the_stack(language_models: Models) -> None:
    # A layer of T5 holds a list of two.
    model = load_language_model(str(language_models("t5")), num_layers=2)
    assert layer_stack(model, 2) is model.encoder.block


def test_what_kind_each_layer_is_of_is_shortened_too(language_models: Models) -> None:
    config = load_language_model(str(language_models("gemma2"))).config
    assert shorten(config, 3).layer_types == config.layer_types[:3]
    assert len(config.layer_types) == NUM_LAYERS


def test_a_model_whose_layers_depend_on_their_number_is_left_whole(language_models: Models) -> None:
    model = load_language_model(str(language_models("qwen3")))
    expected = TextEncoder(model, tiny_tokenizer(), layers=[2])(PROMPTS).hidden_states
    model.config.model_type = "minimax"
    encoder = TextEncoder(model, tiny_tokenizer(), layers=[2])
    assert encoder.model is model
    assert encoder.last_layer == "normalized"
    assert encoder(PROMPTS).hidden_states.equal(expected)


def test_no_list_of_layers(language_models: Models) -> None:
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(vocab_size=64, hidden_size=32, embedding_size=16, num_attention_heads=4, num_hidden_layers=3)
    model = AlbertModel(config).eval()
    assert TextEncoder(model, tiny_tokenizer(), layers=[1, 2]).model is model
    with pytest.raises(ValueError, match="layers of AlbertModel are not one list"):
        TextEncoder(model, tiny_tokenizer(), last_layer="raw")
