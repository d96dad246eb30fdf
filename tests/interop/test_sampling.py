"""A whole guided sampling run from a converted checkpoint, against a loop in plain tensors."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from reference import Reference, make_config, make_weights, schedule
from safetensors.torch import load_file, save_file
from torch import Tensor

from semantic_routing import SemanticRoutingPipeline
from semantic_routing.interop import Parts, convert, convert_to_reference
from semantic_routing.text import load_language_model, load_tokenizer

STEPS, SCALE, SHIFT = 6, 5.0, 3.0
PROMPTS = ["a red circle", "two blue squares left of the green star"]


def language_model_entries(folder: Path) -> dict[str, Any]:
    text = json.loads((folder / "config.json").read_text())
    text = text.get("text_config", text)
    return {**text, "rope_theta": text["rope_parameters"]["rope_theta"]}


@pytest.fixture
def exported(
    request: pytest.FixtureRequest, language_models: Callable[[str], Path], vae_folder: Path, tmp_path: Path
) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """An exported pipeline of the reference around a tiny Qwen3-VL, its configuration and its weights."""
    variant, folder = request.param, language_models("qwen3-vl")
    base = language_model_entries(folder)
    layers = {"text_hidden_states_num": 3} if variant in ("static", "joint") else {}
    config = make_config(variant, in_channels=4, out_channels=4, initial_layers=1, base_config=base, **layers)
    weights = make_weights(config)
    if variant == "fusedit":
        model = load_language_model(str(folder))
        weights |= {f"llm.{name}": tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / "exported"
    (path / "transformer").mkdir(parents=True)
    (path / "transformer" / "config.json").write_text(json.dumps(config))
    save_file(weights, path / "transformer" / "diffusion_pytorch_model.safetensors")
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(path / "scheduler")
    shutil.copytree(vae_folder, path / "vae")
    shutil.copytree(folder, path / "text_encoder")
    load_tokenizer(str(folder)).save_pretrained(path / "tokenizer")
    return path, config, weights


def encode(config: dict[str, Any], path: Path, texts: list[str]) -> dict[str, Tensor]:
    """Features as the reference takes them: padded on the right, counted from the end of all hidden states."""
    tokenizer, model = load_tokenizer(str(path / "tokenizer")), load_language_model(str(path / "text_encoder"))
    tokens = tokenizer(texts, padding="max_length", max_length=12, padding_side="right", return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    if config["use_norm_avg_fusion"]:
        chosen = states[1:]
    elif config["architectures"] == ["DiT"]:
        chosen = states[config["text_hidden_states_index"]][None]
    else:
        chosen = states[-config["text_hidden_states_num"] :]
    return {"text": torch.stack(list(chosen)), "mask": mask.bool(), "input_ids": ids}


@pytest.mark.parametrize("exported", ["penultimate", "uniform", "static", "joint", "fusedit"], indirect=True)
@torch.no_grad()
def test_guided_sampling(exported: tuple[Path, dict[str, Any], dict[str, Tensor]], tmp_path: Path) -> None:
    path, config, weights = exported
    convert(path, tmp_path / "ours", Parts(instruction="draw "))
    pipeline = SemanticRoutingPipeline.from_pretrained(tmp_path / "ours")
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(3))
    seen = pipeline(
        PROMPTS,
        height=16,
        width=24,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=noise,
        output_type="latent",
    ).images

    text = encode(config, path, ["draw "] * 2 + ["draw " + prompt for prompt in PROMPTS])
    model, x = Reference(config, weights), noise.double()
    sigmas = schedule(SHIFT, STEPS)
    for sigma, following in pairwise(sigmas):
        timesteps = (1000 * sigma).expand(4)
        unconditional, conditional = model.forward(torch.cat([x, x]), timesteps, **text).chunk(2)
        x = x + (following - sigma) * (unconditional + SCALE * (conditional - unconditional))
    assert float((seen.double() - x).norm() / x.norm()) < 1e-5


@pytest.mark.parametrize("exported", ["penultimate", "joint", "fusedit"], indirect=True)
def test_there_and_back_through_a_pipeline(
    exported: tuple[Path, dict[str, Any], dict[str, Tensor]], tmp_path: Path
) -> None:
    path, config, weights = exported
    convert(path, tmp_path / "ours")
    convert_to_reference(tmp_path / "ours", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config


@pytest.mark.parametrize("exported", ["depth-wise", "fusedit"], indirect=True)
def test_a_training_folder_with_named_parts(
    exported: tuple[Path, dict[str, Any], dict[str, Tensor]], vae_folder: Path, tmp_path: Path
) -> None:
    """The language model stays a name, except FuseDiT's, which the checkpoint holds; both go back."""
    path, config, weights = exported
    text = str(path / "text_encoder")
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "ema.pt")
    convert(folder, tmp_path / "ours", Parts(text_encoder=text, vae=str(vae_folder), shift=6.0))
    pipeline = SemanticRoutingPipeline.from_pretrained(tmp_path / "ours")
    assert pipeline.scheduler.config.shift == 6.0
    assert (tmp_path / "ours" / "text_encoder").exists() is (config["architectures"] == ["FuseDiT"])
    assert len(pipeline("a red circle", num_inference_steps=2, height=16, width=16).images) == 1
    convert_to_reference(tmp_path / "ours", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("exported", ["joint"], indirect=True)
def test_constants_come_along(exported: tuple[Path, dict[str, Any], dict[str, Tensor]], tmp_path: Path) -> None:
    convert(exported[0], tmp_path / "ours")
    pipeline = SemanticRoutingPipeline.from_pretrained(tmp_path / "ours")
    assert pipeline.config.instruction == "Describe this image."
    assert pipeline.config.text_layers == [2, 3, 4]
    assert pipeline.scheduler.config.shift == SHIFT
    assert pipeline.transformer.config.rope_base == 1e5


@pytest.mark.parametrize("exported", ["joint", "fusedit"], indirect=True)
def test_a_model_without_the_reference_s_own_configuration_goes_back_too(
    exported: tuple[Path, dict[str, Any], dict[str, Tensor]], tmp_path: Path
) -> None:
    """As a model that was trained here: its configuration is made from ours, and gives the same model again."""
    path, config, weights = exported
    convert(path, tmp_path / "ours")
    (tmp_path / "ours" / "transformer" / "reference.json").unlink()
    convert_to_reference(tmp_path / "ours", tmp_path / "back")
    made = json.loads((tmp_path / "back" / "config.json").read_text())
    differing = {
        key for key in config if key not in ("base_config", "text_hidden_size") and made.get(key) != config[key]
    }
    ignored = {"text_hidden_states_num", "text_hidden_states_index", "use_norm_avg_fusion", "initial_layers"}
    ignored |= {"use_timestep_adaptive_fusion", "use_layer_wise_fusion", "adaptive_fusion_time_embed_dim"}
    assert differing <= (
        ignored if config["architectures"] == ["FuseDiT"] else {"initial_layers", "shared_attention_layers"}
    )
    if config["architectures"] == ["FuseDiT"]:
        assert made["initial_layers"] == config["initial_layers"]
    assert made["base_config"]["rope_theta"] == config["base_config"]["rope_theta"]
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name], weights[name]) for name in weights)
