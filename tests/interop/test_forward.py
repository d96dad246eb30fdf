"""Converted checkpoints give the numbers of an independent forward pass written from the reference's conventions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import CONDITIONINGS, FLAGS, Reference, make_config, make_inputs, make_weights, model_class
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from semantic_routing.fusion import Moment
from semantic_routing.interop import convert
from semantic_routing.text import KeyValueEncoder
from semantic_routing.text.tiny import tiny_tokenizer

TOLERANCE = 1e-5
DATA = Path(__file__).parent / "data"
GOLDEN = Path(__file__).parents[3] / "shared" / "specs" / "golden"


def relative_error(seen: Tensor, wanted: Tensor) -> float:
    return float((seen.double() - wanted.double()).norm() / wanted.double().norm())


def write(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


def converted(tmp_path: Path, config: dict[str, Any], weights: dict[str, Tensor], strategy: str) -> Any:
    convert(write(tmp_path / "theirs", config, weights), tmp_path / "ours", transformer_only=True)
    return model_class(strategy).from_pretrained(tmp_path / "ours")


def key_values(config: dict[str, Any], weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """What our encoder reads of the checkpoint's language model."""
    model = AutoModel.from_config(AutoConfig.for_model(**config["base_config"])).eval()
    model.load_state_dict({name[4:]: tensor for name, tensor in weights.items() if name.startswith("llm.")})
    first, blocks = config["initial_layers"], config["dit_num_hidden_layers"]
    encoder = KeyValueEncoder(model, tiny_tokenizer(), layers=list(range(first, first + blocks)))
    with torch.no_grad():
        return encoder.read(inputs["input_ids"], inputs["mask"])


@torch.no_grad()
def largest_error(tmp_path: Path, config: dict[str, Any], variant: str, mask: Tensor | None = None) -> float:
    """Of the output and, where there is a router, of the text that it fuses."""
    weights, inputs = make_weights(config), make_inputs(config)
    if mask is not None:
        inputs["mask"] = mask
    model = converted(tmp_path, config, weights, variant)
    text = key_values(config, weights, inputs) if variant == "fusedit" else inputs["text"].transpose(0, 1)
    seen = model(inputs["latents"], inputs["timesteps"], text, inputs["mask"]).sample
    reference = Reference(config, weights)
    errors = [relative_error(seen, reference.forward(**inputs))]
    if variant != "fusedit":
        fused = model.fusion(model.fusion.prepare(text), Moment(inputs["timesteps"]))
        errors.append(relative_error(fused, reference.fused_text(inputs["text"], inputs["timesteps"])))
    return max(errors)


@pytest.mark.parametrize("variant", FLAGS)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_variant_and_conditioning(tmp_path: Path, variant: str, conditioning: str | None) -> None:
    assert largest_error(tmp_path, make_config(variant, conditioning), variant) < TOLERANCE


@pytest.mark.parametrize("variant", ["depth-wise", "fusedit"])
@pytest.mark.parametrize("conditioning", [None, "adaln-zero"])
@pytest.mark.parametrize("changes", [{"sandwich_norm": True}, {"pos_embed": "ape"}], ids=["sandwich", "ape"])
def test_outside_the_presets(tmp_path: Path, variant: str, conditioning: str | None, changes: dict[str, Any]) -> None:
    assert largest_error(tmp_path, make_config(variant, conditioning, **changes), variant) < TOLERANCE


def test_uniform_written_with_one_layer_reads_all(tmp_path: Path) -> None:
    config = make_config("uniform")
    assert config["text_hidden_states_num"] == 1
    assert converted(tmp_path, config, make_weights(config), "uniform").config.num_text_layers == 5


@pytest.mark.parametrize(
    "file", [DATA / "static.safetensors", GOLDEN / "static.safetensors", GOLDEN / "joint.safetensors"]
)
@pytest.mark.parametrize("case", ["a", "b"])
@torch.no_grad()
def test_goldens(tmp_path: Path, file: Path, case: str) -> None:
    """Numbers that the reference itself gave. One file of them is kept here; others are tried where they lie."""
    if not file.exists():
        pytest.skip("this golden file is not part of the repository")
    tensors, variant = load_file(file), file.stem
    beside = file.with_suffix(".json")
    with safe_open(file, "pt") as opened:
        config = (
            json.loads(opened.metadata()["config"]) if file.parent == DATA else json.loads(beside.read_text())["config"]
        )
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    model = converted(tmp_path, config, weights, variant)
    given = {name: tensors.get(f"case_{case}.in.{name}") for name in ("latents", "timesteps", "attention_mask")}
    text = tensors[f"case_{case}.in.text_hidden_states"].transpose(0, 1)
    mask = None if given["attention_mask"] is None else given["attention_mask"].bool()
    seen = model(given["latents"], given["timesteps"], text, mask).sample
    assert relative_error(seen, tensors[f"case_{case}.out.prediction"]) < TOLERANCE
    fused = model.fusion(model.fusion.prepare(text), Moment(given["timesteps"]))
    assert relative_error(fused, tensors[f"case_{case}.mid.fused_text"]) < TOLERANCE
    alpha = model.fusion.layer_weights(None, Moment(given["timesteps"]))[:, :, 0]
    wanted = tensors[f"case_{case}.mid.fusion_weights"]
    assert relative_error(alpha if wanted.ndim == 3 else alpha[0, 0], wanted) < TOLERANCE
    assert relative_error(model.context_embedder(fused), tensors[f"case_{case}.mid.context_text"]) < TOLERANCE


@pytest.mark.parametrize("variant", ["uniform", "depth-wise"])
def test_a_row_without_any_token_reads_all_positions_evenly(tmp_path: Path, variant: str) -> None:
    mask = torch.stack([torch.zeros(9, dtype=torch.bool), torch.arange(9) < 4])
    assert largest_error(tmp_path, make_config(variant), variant, mask) < TOLERANCE


@pytest.mark.parametrize("variant", ["time-wise", "joint"])
def test_a_gate_with_another_embedding_of_time(tmp_path: Path, variant: str) -> None:
    config = make_config(variant, adaptive_fusion_time_embed_dim=32)
    assert largest_error(tmp_path, config, variant) < TOLERANCE


@pytest.mark.parametrize(("variant", "base"), [("uniform", 1e4), ("static", 1e5), ("fusedit", 5e6)])
def test_the_class_sets_the_rotary_base(tmp_path: Path, variant: str, base: float) -> None:
    config = make_config(variant)
    model = converted(tmp_path, config, make_weights(config), variant)
    assert model.config.rope_base == base


def test_the_class_is_found_without_being_named(tmp_path: Path) -> None:
    for variant in ("uniform", "static", "fusedit"):
        config = make_config(variant)
        del config["architectures"]
        (tmp_path / variant).mkdir()
        weights = make_weights(make_config(variant))
        model = converted(tmp_path / variant, config, weights, variant)
        assert model.config.get("strategy", "fusedit") == variant
