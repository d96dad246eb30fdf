import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from semantic_routing.text import TextEncoder, load_language_model, load_tokenizer, resolve_layers
from semantic_routing.text.tiny import NUM_LAYERS, tiny_tokenizer


@pytest.fixture(scope="module")
def model(language_models: Any) -> Any:
    return load_language_model(str(language_models("qwen3")))


@pytest.fixture(scope="module", params=["qwen3-vl", "bert", "t5"])
def encoder(request: pytest.FixtureRequest, language_models: Any) -> TextEncoder:
    folder = str(language_models(request.param))
    return TextEncoder(load_language_model(folder), load_tokenizer(folder))


@pytest.mark.parametrize(
    ("layers", "indices"),
    [
        ("all", [1, 2, 3, 4]),
        (1, [4]),
        (2, [3, 4]),
        (5, [0, 1, 2, 3, 4]),
        ([4, 1], [1, 4]),
        ([-1, -5], [0, 4]),
        ([0, 2, 2, -3], [0, 2]),
    ],
)
def test_layers_are_indices_of_hidden_states(layers: Any, indices: list[int]) -> None:
    assert resolve_layers(layers, 4) == indices


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([5], "Layer 5 is out of range: .*layers 0 to 4"),
        ([-6], "Layer -6 is out of range"),
        (6, "last 6 layers of 4"),
        (0, "last 0 layers of 4"),
        ([], "non-empty"),
        ("some", "not 'some'"),
    ],
)
def test_layers_that_do_not_exist(layers: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        resolve_layers(layers, 4)


def test_chosen_layers_are_those_of_the_model(model: Any) -> None:
    everything = TextEncoder(model, tiny_tokenizer(), layers=[0, 1, 2, 3, 4])(["a red circle"]).hidden_states
    assert TextEncoder(model, tiny_tokenizer(), layers=[-1, 2])(["a red circle"]).hidden_states.equal(
        everything[:, [2, 4]]
    )
    assert TextEncoder(model, tiny_tokenizer())(["a red circle"]).hidden_states.equal(everything[:, 1:])
    embeddings = model.get_input_embeddings()(torch.tensor([tiny_tokenizer()("a red circle")["input_ids"]]))
    assert everything[:, 0].equal(embeddings)


# Two of similar length, which are padded to each other.
PROMPTS = ["a red circle", "two blue squares and a green star", "star", "two blue squares and a star"]


def test_a_batch_gives_each_prompt_what_it_gets_alone(encoder: TextEncoder) -> None:
    together = encoder(PROMPTS)
    assert together.mask.shape == (4, 7)
    for row, prompt in enumerate(PROMPTS):
        alone = encoder([prompt])
        length = alone.mask.shape[1]
        assert alone.mask.all()
        assert together.mask[row].tolist() == [True] * length + [False] * (7 - length)
        torch.testing.assert_close(
            together.hidden_states[row, :, :length], alone.hidden_states[0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("family", ["qwen3-vl", "bert", "t5", "llama"])
def test_half_precision_features_do_not_depend_on_the_batch(language_models: Any, family: str) -> None:
    encoder = TextEncoder.load(str(language_models(family)), torch.bfloat16)
    # Attention adds up sixteen keys at a time: shorter prompts would hide that padding is among them.
    long = "two red stars and a green square left of the blue circle and two"
    prompts = ["", *PROMPTS, "a blue circle", long, f"draw {long} and a star"]
    full = TextEncoder.load(str(language_models(family)))
    for rows in ([0], [0, 2], [1, 5, 6], [7, 2, 3, 6], range(8)):
        together = encoder([prompts[row] for row in rows])
        with torch.autocast("cpu", torch.bfloat16):
            cast = full([prompts[row] for row in rows])
        for place, row in enumerate(rows):
            alone = encoder([prompts[row]]).hidden_states[0]
            assert together.hidden_states[place, :, : alone.shape[1]].equal(alone)
            with torch.autocast("cpu", torch.bfloat16):
                alone = full([prompts[row]]).hidden_states[0]
            assert cast.hidden_states[place, :, : alone.shape[1]].equal(alone)


def test_each_distinct_prompt_is_encoded_once(encoder: TextEncoder) -> None:
    rows = []
    handle = encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        features = encoder(["star", "a red circle", "star", "", ""])
    finally:
        handle.remove()
    assert sum(rows) == 3
    assert len(features.hidden_states) == len(features.mask) == 5
    assert features.hidden_states[0].equal(features.hidden_states[2])
    assert features.hidden_states[3].equal(features.hidden_states[4])
    in_order = encoder(["star", "a red circle", ""])
    assert features.hidden_states[[0, 1, 3]].equal(in_order.hidden_states)
    assert features.mask[[0, 1, 3]].equal(in_order.mask)


@pytest.mark.parametrize("pad", [True, False])
def test_padding_is_on_the_right_whatever_the_tokenizer_likes(model: Any, pad: bool) -> None:
    tokenizer = tiny_tokenizer(pad)
    assert tokenizer.padding_side == "left"
    input_ids, mask = TextEncoder(model, tokenizer).tokenize(PROMPTS)
    lengths = [3, 7, 1, 6]
    assert mask.tolist() == [[True] * length + [False] * (7 - length) for length in lengths]
    for row, (prompt, length) in enumerate(zip(PROMPTS, lengths, strict=True)):
        assert input_ids[row, :length].tolist() == tokenizer(prompt)["input_ids"]
    assert set(input_ids[~mask].tolist()) == {tokenizer.pad_token_id or 0}


def test_an_empty_prompt_is_one_token(encoder: TextEncoder) -> None:
    features = encoder([""])
    assert features.mask.tolist() == [[True]]
    assert features.hidden_states.isfinite().all()
    beside = encoder(["", "a red circle"])
    torch.testing.assert_close(beside.hidden_states[0, :, :1], features.hidden_states[0], rtol=1e-4, atol=1e-4)


def test_a_warning_says_how_many_tokens_were_lost(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    encoder = TextEncoder(model, tiny_tokenizer(), max_length=4)
    with caplog.at_level(logging.WARNING):
        features = encoder(["a red circle", "two blue squares and a green star", "a red circle left of a star"])
    assert [record.message for record in caplog.records] == [
        "2 of 3 prompts are longer than 4 tokens; 6 tokens were cut."
    ]
    assert features.mask.sum(1).tolist() == [3, 4, 4]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cut = encoder(["two blue squares and"])
    assert not caplog.records
    torch.testing.assert_close(features.hidden_states[1], cut.hidden_states[0], rtol=1e-4, atol=1e-4)


def test_no_prompt_is_longer_than_the_model_can_read(model: Any) -> None:
    encoder = TextEncoder(model, tiny_tokenizer(), max_length=10_000)
    assert encoder.max_length == model.config.max_position_embeddings == 128
    assert encoder(["a " * 200]).mask.shape == (1, 128)


def test_the_instruction_is_put_before_the_prompt_as_it_is(model: Any) -> None:
    plain, instructed = TextEncoder(model, tiny_tokenizer()), TextEncoder(model, tiny_tokenizer(), instruction="draw ")
    assert instructed(["a star"]).hidden_states.equal(plain(["draw a star"]).hidden_states)
    assert instructed([""]).hidden_states.equal(plain(["draw"]).hidden_states)


def test_the_chat_template_wraps_instruction_and_prompt(model: Any) -> None:
    tokenizer = tiny_tokenizer()
    encoder = TextEncoder(model, tokenizer, instruction="draw ", chat_template=True)
    input_ids, _ = encoder.tokenize(["a star"])
    assert tokenizer.decode(input_ids[0]).split() == ["<user>", "draw", "a", "star", "<end>", "<assistant>"]
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat_template is set"):
        TextEncoder(model, tokenizer, chat_template=True)


def test_mistakes(model: Any) -> None:
    with pytest.raises(ValueError, match="last_layer must be 'normalized' or 'raw', not 'last'"):
        TextEncoder(model, tiny_tokenizer(), last_layer="last")
    with pytest.raises(ValueError, match="no prompt"):
        TextEncoder(model, tiny_tokenizer())([])


def test_features_can_be_moved_and_cast(model: Any) -> None:
    features = TextEncoder(model, tiny_tokenizer())(PROMPTS).to("cpu", torch.bfloat16)
    assert features.hidden_states.dtype == torch.bfloat16
    assert features.mask.dtype == torch.bool
    assert features.hidden_states.shape[1] == NUM_LAYERS


def test_nothing_is_recorded_for_gradients(qwen3_vl: Path) -> None:
    language_model = load_language_model(str(qwen3_vl)).requires_grad_(True)
    assert not TextEncoder(language_model, tiny_tokenizer())(["a star"]).hidden_states.requires_grad
