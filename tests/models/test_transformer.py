from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TRANSFORMER_SIZES, normal
from torch import Tensor

from semantic_routing.fusion import FUSIONS, Moment
from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.timestep import TIMESTEP_CONDITIONINGS

LAYERS, TEXT_CHANNELS, CHANNELS = 3, 12, 4
TIMES = torch.tensor([900.0, 250.0])


def fresh(**options: Any) -> SemanticRoutingTransformer2DModel:
    sizes = {"num_text_layers": LAYERS, "text_channels": TEXT_CHANNELS, "in_channels": CHANNELS, "strategy": "joint"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SemanticRoutingTransformer2DModel(**(TRANSFORMER_SIZES | sizes | options)).eval()


def randomized(**options: Any) -> SemanticRoutingTransformer2DModel:
    """No parameter stays at an initial value that would hide what it does."""
    model = fresh(**options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


LATENTS = normal(2, CHANNELS, 8, 8)
TEXT = normal(2, LAYERS, 6, TEXT_CHANNELS, seed=1)
MASK = torch.arange(6) < torch.tensor([[4], [6]])


@torch.no_grad()
def run(model: SemanticRoutingTransformer2DModel, latents: Tensor = LATENTS, **options: Any) -> Tensor:
    inputs = {"encoder_hidden_states": TEXT, "encoder_attention_mask": MASK} | options
    return model(latents, inputs.pop("timestep", TIMES), **inputs).sample


@pytest.mark.parametrize("conditioning", TIMESTEP_CONDITIONINGS)
@pytest.mark.parametrize("strategy", FUSIONS)
def test_cached_equals_uncached_bit_for_bit(strategy: str, conditioning: str) -> None:
    model = randomized(strategy=strategy, timestep_conditioning=conditioning)
    prepared = model.prepare_text(TEXT, MASK, reused=True)
    for time in (1000.0, 300.0):
        times = torch.full((2,), time)
        expected = run(model, timestep=times)
        with torch.no_grad():
            cached = model.text_context(prepared, times, cache=True)
            one_for_all = model.text_context(prepared, times[:1], cache=True)
        assert run(model, timestep=times, encoder_hidden_states=None, text_context=cached).equal(expected)
        shared = run(model, timestep=times, encoder_hidden_states=None, text_context=one_for_all)
        torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-4)
    # What was computed at one time serves the others exactly where the model says so.
    with torch.no_grad():
        early = model.text_context(prepared, torch.tensor([1000.0]), cache=True)
    reused = run(model, timestep=times, encoder_hidden_states=None, text_context=early)
    assert reused.equal(expected) == ("timestep" not in model.varies_with)


def test_a_cached_context_leaves_no_text_work_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomized(strategy="depth-wise")
    with torch.no_grad():
        context = model.text_context(model.prepare_text(TEXT, MASK), TIMES[:1], cache=True)
    calls = []
    for name, module in model.named_modules():
        if any(part in name for part in ("fusion", "context_embedder", "cross_attention.to_k", "cross_attention.to_v")):
            module.register_forward_hook(lambda module, args, output, name=name: calls.append(name))
    run(model, encoder_hidden_states=None, text_context=context)
    assert not calls
    run(model)
    assert len(calls) >= 6


@pytest.mark.parametrize("strategy", FUSIONS)
def test_padding_changes_nothing(strategy: str) -> None:
    model = randomized(strategy=strategy)
    padded = run(model)
    for row, length in enumerate((4, 6)):
        rows = slice(row, row + 1)
        alone = run(
            model,
            LATENTS[rows],
            timestep=TIMES[rows],
            encoder_hidden_states=TEXT[rows, :, :length],
            encoder_attention_mask=None,
        )
        torch.testing.assert_close(padded[rows], alone, rtol=1e-4, atol=1e-5)
    garbage = TEXT.clone()
    garbage[0, :, 4:] = 1e4
    torch.testing.assert_close(run(model, encoder_hidden_states=garbage), padded, rtol=1e-4, atol=1e-5)


def test_text_reaches_the_image_block_by_block() -> None:
    model = randomized(strategy="depth-wise")
    base = run(model)
    with torch.no_grad():
        model.fusion.beta[1, 0] += 3
    assert (run(model) - base).abs().max() > 1e-3
    assert (run(model, encoder_hidden_states=TEXT.flip(0)) - base).abs().max() > 1e-3


def test_every_parameter_learns() -> None:
    for conditioning in TIMESTEP_CONDITIONINGS:
        model = randomized(timestep_conditioning=conditioning)
        model(LATENTS, TIMES, TEXT, MASK).sample.square().sum().backward()
        dead = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
        assert not dead


@pytest.mark.parametrize("strategy", FUSIONS)
def test_the_fusion_learns_from_its_start(strategy: str) -> None:
    model = fresh(strategy=strategy)
    torch.nn.init.normal_(model.proj_out.weight, generator=torch.Generator().manual_seed(0))
    model(LATENTS, TIMES, TEXT, MASK).sample.square().sum().backward()
    gradients = {name: value.grad for name, value in model.fusion.named_parameters() if value.grad is not None}
    for name in ("beta", "gate.weight_out", "gate.bias_out"):
        assert name not in gradients or gradients[name].any()


@pytest.mark.parametrize("conditioning", TIMESTEP_CONDITIONINGS)
def test_a_fresh_model_predicts_zero(conditioning: str) -> None:
    assert run(fresh(timestep_conditioning=conditioning)).equal(torch.zeros_like(LATENTS))


@pytest.mark.parametrize("position_embedding", ["rope", "sincos", "rope+sincos"])
@pytest.mark.parametrize(("height", "width"), [(8, 4), (2, 12), (6, 6)])
def test_non_square_latents(height: int, width: int, position_embedding: str) -> None:
    model = randomized(position_embedding=position_embedding)
    latents = normal(2, CHANNELS, height, width)
    output = run(model, latents)
    assert output.shape == latents.shape
    # A token knows its row and its column: the transposed picture is not the picture transposed.
    assert (run(model, latents.mT.contiguous()).mT - output).abs().max() > 1e-3


@pytest.mark.parametrize(("channels", "patch_size"), [(1, 2), (3, 4), (16, 2), (3, 1)])
def test_any_number_of_channels(channels: int, patch_size: int) -> None:
    model = randomized(in_channels=channels, patch_size=patch_size)
    latents = normal(2, channels, 8, 8)
    assert run(model, latents).shape == latents.shape


def test_a_patch_is_put_back_where_it_was_taken() -> None:
    model = randomized(num_blocks=1, strategy="uniform", hidden_size=64)
    with torch.no_grad():
        for parameter in (*model.blocks.parameters(), model.norm_out.weight):
            parameter.zero_()
        model.norm_out.weight.fill_(1)
        patches = model.patch_embed.proj.weight.view(64, -1)  # out, (channel row column)
        patches.copy_(torch.nn.init.orthogonal_(torch.empty(64, 16)))
        model.patch_embed.proj.bias.zero_()
        undo = patches.T.unflatten(0, (CHANNELS, 2, 2)).permute(1, 2, 0, 3).flatten(0, 2)
        model.proj_out.weight.copy_(undo)
        model.proj_out.bias.zero_()
    output = run(model)
    folded = torch.nn.functional.unfold(LATENTS, 2, stride=2)
    scale = folded.square().sum(1, keepdim=True).div(64).add(1e-6).rsqrt()
    expected = torch.nn.functional.fold(folded * scale, (8, 8), 2, stride=2)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", ["depth-wise", "joint"])
def test_gradient_checkpointing_gives_the_same_gradients(strategy: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = randomized(strategy=strategy, timestep_conditioning="adaln-zero").train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        calls = []
        model.blocks[0].mlp.register_forward_hook(lambda *_: calls.append(0))
        model(LATENTS, TIMES, TEXT, MASK).sample.square().sum().backward()
        assert len(calls) == 1 + checkpointing
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", FUSIONS)
def test_saving_and_loading(strategy: str, tmp_path: Path) -> None:
    model = randomized(
        strategy=strategy,
        timestep_conditioning="adaln-single",
        sandwich_norm=True,
        prediction="sample",
        position_embedding="rope+sincos",
    )
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = SemanticRoutingTransformer2DModel.from_pretrained(tmp_path)
    assert all(value.equal(model.state_dict()[name]) for name, value in loaded.state_dict().items())
    torch.testing.assert_close(run(loaded), run(model))
    assert dict(loaded.config)["prediction"] == "sample"


@pytest.mark.parametrize("strategy", FUSIONS)
def test_bfloat16_weights_leave_the_fusion_in_float32(strategy: str, tmp_path: Path) -> None:
    model = randomized(strategy=strategy)
    model.save_pretrained(tmp_path)
    loaded = SemanticRoutingTransformer2DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.fusion.parameters()} <= {torch.float32}
    others = {value.dtype for name, value in loaded.named_parameters() if not name.startswith("fusion")}
    assert others == {torch.bfloat16}
    assert loaded.dtype == torch.bfloat16
    prepared = model.prepare_text(TEXT, MASK)
    ours, theirs = (
        transformer.fusion.layer_weights(prepared, Moment(TIMES, normal(2, 24), 0)) for transformer in (model, loaded)
    )
    assert theirs is None if ours is None else ours.equal(theirs)
    output = run(loaded, LATENTS.bfloat16(), encoder_hidden_states=TEXT.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), run(model), rtol=0.1, atol=0.3)


def test_lora_adapters() -> None:
    from peft import LoraConfig

    model = randomized()
    base = run(model)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out"], init_lora_weights=False)
    model.add_adapter(config, adapter_name="style")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    adapted = run(model)
    assert (adapted - base).abs().max() > 1e-3
    half = run(model, attention_kwargs={"scale": 0.5})
    assert (half - base).abs().max() > 1e-4
    assert (half - adapted).abs().max() > 1e-4
    model.disable_adapters()
    torch.testing.assert_close(run(model), base)


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    # Setting a model's backend also sets the default of the process: put that back afterwards.
    monkeypatch.setattr(Registry, "_active_backend", Registry._active_backend)
    model = randomized()
    expected = run(model)
    model.set_attention_backend(backend)
    used = []
    for name, function in list(Registry._backends.items()):
        monkeypatch.setitem(
            Registry._backends,
            name,
            lambda *args, name=name, function=function, **kwargs: used.append(name.value) or function(*args, **kwargs),
        )
    torch.testing.assert_close(run(model), expected, rtol=1e-4, atol=1e-5)
    assert used == [backend] * 4  # self- and cross-attention of two blocks


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attention_head_dim": 6}, "divisible by 4, not 6"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 key/value heads"),
        ({"sample_size": 7}, "Sample size 7 is not a multiple of the patch size 2"),
        ({"timestep_conditioning": "film"}, "'film': expected one of none, addition, adaln-zero, adaln-single"),
        ({"prediction": "noise"}, "'noise': expected 'velocity' or 'sample'"),
        ({"position_embedding": "learned"}, "'learned': expected one of rope, sincos, rope\\+sincos"),
        ({"strategy": "deep"}, "fusion strategy 'deep'"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        fresh(**options)
    assert "\n" not in str(caught.value)


def test_inputs_that_do_not_fit() -> None:
    model = fresh()
    with pytest.raises(ValueError, match="7 is not a multiple of the patch size 2"):
        run(model, normal(2, CHANNELS, 8, 7))
    with pytest.raises(ValueError, match="encoder_hidden_states or text_context"):
        run(model, encoder_hidden_states=None)
    with pytest.raises(ValueError, match="built for 3 layers and got 2"):
        run(model, encoder_hidden_states=TEXT[:, :2])


def test_a_larger_picture_than_the_table_of_positions_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="64"):
        run(randomized(position_embedding="sincos", patch_size=1), normal(2, CHANNELS, 66, 4))


def test_places_in_a_picture_of_few_patches_lie_apart() -> None:
    table = fresh(position_embedding="rope+sincos", sample_size=8, patch_size=2).patch_embed.pos_embed[0]
    assert len(table) == 16
    assert torch.pdist(table).min() > 0.1 * table.norm(dim=-1).mean()


def test_outputs_come_as_diffusers_gives_them() -> None:
    model = randomized()
    with torch.no_grad():
        as_tuple = model(LATENTS, TIMES, TEXT, MASK, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert as_tuple[0].equal(run(model))
