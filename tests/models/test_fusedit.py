"""FuseDiT: joint attention to the language model's keys and values, computed once a prompt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semantic_routing import SemanticRoutingPipeline
from semantic_routing.models import FuseDiTTransformer2DModel
from semantic_routing.text import KeyValueEncoder, TextFeatures, load_language_model, load_tokenizer
from semantic_routing.text.depth import shorten
from semantic_routing.training import train
from semantic_routing.training.config import load_config
from semantic_routing.training.export import export_pipeline

LAYERS = [1, 2]
PROMPTS = ["a red circle", "two blue squares left of the green star"]


def make_model(**changes: Any) -> FuseDiTTransformer2DModel:
    sizes = {"num_text_layers": 2, "text_channels": 32, "num_blocks": 2, "num_attention_heads": 4, "sample_size": 8}
    sizes |= {"num_key_value_heads": 2, "attention_head_dim": 8, "hidden_size": 24, "in_channels": 3}
    torch.manual_seed(0)
    model = FuseDiTTransformer2DModel(**{**sizes, **changes})
    torch.nn.init.normal_(model.proj_out.weight, std=0.3)
    return model.eval()


@pytest.fixture(params=["qwen3", "qwen3-vl", "llama"])
def encoder(request: pytest.FixtureRequest, language_models: Callable[[str], Path]) -> KeyValueEncoder:
    folder = str(language_models(request.param))
    return KeyValueEncoder(load_language_model(folder), load_tokenizer(folder), LAYERS)


@pytest.fixture
def inputs(encoder: KeyValueEncoder) -> tuple[Tensor, Tensor, TextFeatures]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 8, 4, generator=generator), torch.tensor([900.0, 300.0]), encoder(PROMPTS)


def test_the_encoder_gives_what_the_language_model_would_keep(encoder: KeyValueEncoder) -> None:
    ids, mask = encoder.tokenize(PROMPTS)
    kept = encoder.model(input_ids=ids, attention_mask=mask.long(), use_cache=True).past_key_values
    seen = encoder.read(ids, mask)
    assert seen.shape == (2, len(LAYERS), ids.shape[1], encoder.num_channels)
    for row, layer in enumerate(LAYERS):
        keys, values = seen[:, row].chunk(2, dim=-1)
        assert torch.equal(keys.unflatten(-1, (2, 8)).transpose(1, 2), kept.layers[layer].keys)
        assert torch.equal(values.unflatten(-1, (2, 8)).transpose(1, 2), kept.layers[layer].values)


def test_the_language_model_stops_after_the_deepest_paired_layer(encoder: KeyValueEncoder) -> None:
    ran: list[int] = []
    for number, layer in enumerate(encoder.model.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    encoder(PROMPTS)
    assert set(ran) == {0, 1, 2}


@pytest.mark.parametrize("family", ["gemma3", "bert"])
def test_other_architectures_are_refused_by_name(language_models: Callable[[str], Path], family: str) -> None:
    folder = str(language_models(family))
    with pytest.raises(ValueError, match=f"qwen3_vl_text, .* model, not of '{family}"):
        KeyValueEncoder(load_language_model(folder), load_tokenizer(folder), LAYERS)


def test_layers_are_checked(encoder: KeyValueEncoder) -> None:
    config = encoder.model.config
    assert config.num_hidden_layers == max(LAYERS) + 1
    config = shorten(config, 2 * len(LAYERS))
    assert KeyValueEncoder.resolve("all", config) == [0, 1, 2, 3]
    assert KeyValueEncoder.resolve(2, config) == [2, 3]
    assert KeyValueEncoder.resolve([-1, 0], config) == [0, 3]
    for wrong, message in (([4], "layers 0 to 3"), (5, "last 5 layers of 4"), ([], "non-empty")):
        with pytest.raises(ValueError, match=message):
            KeyValueEncoder.resolve(wrong, config)


@torch.no_grad()
def test_computed_once_a_prompt_equals_computed_in_every_step(inputs: tuple[Tensor, Tensor, TextFeatures]) -> None:
    latents, timestep, text = inputs
    model = make_model(timestep_conditioning="adaln-single")
    context = model.text_context(model.prepare_text(*text), torch.tensor([1000.0]), cache=True)
    for step in (1.0, 0.5, 0.1):
        uncached = model(latents, step * timestep, *text).sample
        assert torch.equal(model(latents, step * timestep, text_context=context).sample, uncached)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(
    inputs: tuple[Tensor, Tensor, TextFeatures], encoder: KeyValueEncoder
) -> None:
    latents, timestep, text = inputs
    model = make_model()
    together = model(latents, timestep, *text).sample
    for row, prompt in enumerate(PROMPTS):
        alone = model(latents[row : row + 1], timestep[row : row + 1], *encoder([prompt])).sample
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_is_never_read(inputs: tuple[Tensor, Tensor, TextFeatures]) -> None:
    latents, timestep, (key_values, mask) = inputs
    model = make_model()
    noise = torch.where(mask[:, None, :, None], 0.0, 1e4)
    assert torch.equal(
        model(latents, timestep, key_values + noise, mask).sample, model(latents, timestep, key_values, mask).sample
    )


@torch.no_grad()
def test_the_image_counts_on_from_the_text(inputs: tuple[Tensor, Tensor, TextFeatures]) -> None:
    """One more real token moves the image away from the text: were the shift dropped, its score would not change."""
    model = make_model()
    key_values, mask = inputs[2]
    key = model.prepare_text(key_values, mask).key
    longer = torch.nn.functional.pad(key_values, (0, 0, 0, 1))
    one_more = torch.nn.functional.pad(mask, (0, 1)).roll(1, dims=1) | torch.nn.functional.pad(mask, (0, 1))
    moved = model.prepare_text(longer, one_more).key[:, :, : key.shape[2]]
    assert not torch.allclose(key, moved)
    # Turning is a rotation: lengths of keys stay.
    torch.testing.assert_close(key.norm(dim=-1), moved.norm(dim=-1))


@torch.no_grad()
def test_time_reaches_the_blocks_only_by_conditioning(inputs: tuple[Tensor, Tensor, TextFeatures]) -> None:
    latents, timestep, text = inputs
    for conditioning, equal in (("none", True), ("addition", False)):
        model = make_model(timestep_conditioning=conditioning)
        assert (
            torch.equal(model(latents, timestep, *text).sample, model(latents, 0.5 * timestep, *text).sample) is equal
        )
        assert model.varies_with == {"block"}


def test_gradient_checkpointing_gives_the_same_gradients(inputs: tuple[Tensor, Tensor, TextFeatures]) -> None:
    latents, timestep, text = inputs
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(latents, timestep, *text).sample.pow(2).mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(plain, saved) for plain, saved in zip(*gradients, strict=True))


def test_saving_and_loading(tmp_path: Path, inputs: tuple[Tensor, Tensor, TextFeatures]) -> None:
    latents, timestep, text = inputs
    model = make_model(sandwich_norm=True)
    model.save_pretrained(tmp_path)
    loaded = FuseDiTTransformer2DModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(latents, timestep, *text).sample, model(latents, timestep, *text).sample)


def test_sizes_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="3 blocks need as many, not 2"):
        make_model(num_blocks=3)
    with pytest.raises(ValueError, match="have 48 channels together; these blocks' have 32"):
        make_model(text_channels=48)
    with pytest.raises(ValueError, match="has 2 blocks and got 3 layers"):
        make_model().prepare_text(torch.zeros(1, 3, 4, 32))


@pytest.fixture
def run(tiny_values: dict[str, Any], tmp_path: Path) -> Path:
    values = tiny_values
    values["model"] |= {"kind": "fusedit", "strategy": None}
    values["text"]["layers"] = LAYERS
    values["data"]["image_size"] = 32
    values["training"]["steps"] = values["training"]["checkpoint_every"] = 4
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values))
    train(load_config(str(path)))
    return Path(values["training"]["output"])


def test_training_exporting_and_sampling(run: Path, tmp_path: Path) -> None:
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 4
    export_pipeline(run, tmp_path / "pipeline")
    pipeline = SemanticRoutingPipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(pipeline.transformer, FuseDiTTransformer2DModel)
    assert isinstance(pipeline.prompt_encoder, KeyValueEncoder)
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt"}
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    images = pipeline(PROMPTS, generator=generators, **options).images
    assert images.shape == (2, 3, 32, 32)
    again = pipeline(PROMPTS[:1], generator=torch.Generator().manual_seed(0), **options).images
    torch.testing.assert_close(images[:1], again, rtol=1e-4, atol=1e-4)
