"""Every registered fusion inside the transformer: start, caching, batches, training."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import example_fusions
import pytest
import torch
from tiny import TRANSFORMER_SIZES, normal
from torch import Tensor

from semantic_routing.fusion import FUSIONS, check_fusion
from semantic_routing.models import SemanticRoutingTransformer2DModel

LAYERS, TEXT_CHANNELS, CHANNELS = 3, 12, 4
SIZES = {"num_text_layers": LAYERS, "text_channels": TEXT_CHANNELS, "in_channels": CHANNELS}
LATENTS, TEXT = normal(2, CHANNELS, 8, 8), normal(2, LAYERS, 6, TEXT_CHANNELS, seed=1)
MASK = torch.arange(6) < torch.tensor([[4], [6]])
STRATEGIES = sorted(FUSIONS)


def fresh(strategy: str, seed: int = 0, **options: Any) -> SemanticRoutingTransformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SemanticRoutingTransformer2DModel(strategy=strategy, **(TRANSFORMER_SIZES | SIZES | options)).eval()


def randomized(strategy: str, **options: Any) -> SemanticRoutingTransformer2DModel:
    model = fresh(strategy, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def test_examples_are_registered() -> None:
    assert set(example_fusions.EXAMPLES) <= set(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_strategies_start_from_one_backbone(strategy: str) -> None:
    ours, theirs = (fresh(name, seed=3).state_dict() for name in (strategy, "joint"))
    same_width = {name for name in theirs if not name.startswith("fusion.") and ours[name].shape == theirs[name].shape}
    assert all(ours[name].equal(theirs[name]) for name in same_width)
    others = {name for name in theirs if not name.startswith("fusion.")} - same_width
    assert all(name.startswith("context_embedder.") for name in others)
    assert (
        not fresh(strategy, seed=4)
        .state_dict()["blocks.0.mlp.up_proj.weight"]
        .equal(ours["blocks.0.mlp.up_proj.weight"])
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_context_has_the_shape_that_the_fusion_says(strategy: str) -> None:
    model = fresh(strategy)
    check_fusion(model.fusion, strategy)  # raises where it has another
    claimed = type("Claimed", (type(model.fusion),), {"varies_with": model.fusion.varies_with ^ {"block"}})
    model.fusion.__class__ = claimed
    contradicts = "state" not in claimed.varies_with  # a block's own context is asked for by the block's number
    with pytest.raises(ValueError, match="its context must have shape") if contradicts else nullcontext():
        check_fusion(model.fusion, strategy)


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_guided_sampling_gives_each_row_its_own_text(strategy: str) -> None:
    """Two prompts, three rows, of which two share a prompt but not the image: as if each were computed alone."""
    model = randomized(strategy, timestep_conditioning="adaln-zero")
    rows, time = torch.tensor([0, 1, 1]), torch.tensor([300.0])
    latents = normal(3, CHANNELS, 8, 8, seed=5)
    context = model.text_context(model.prepare_text(TEXT, MASK, reused=True), time, cache=True).rows(rows)
    together = model(latents, time.expand(3), text_context=context).sample
    for row, prompt in enumerate(rows.tolist()):
        text, mask = TEXT[prompt : prompt + 1], MASK[prompt : prompt + 1]
        alone = model(latents[row : row + 1], time, text, mask).sample
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_fusion_that_reads_the_image_hears_another_image() -> None:
    model, time = randomized("test-by-state"), torch.tensor([300.0])
    context = model.text_context(model.prepare_text(TEXT, MASK, reused=True), time)
    seen: list[Tensor] = []
    model.fusion.register_forward_hook(lambda module, args, output: seen.append(output))
    for latents in (LATENTS, LATENTS.flip(0)):
        model(latents, time.expand(2), text_context=context)
    first, second = seen[: len(model.blocks)], seen[len(model.blocks) :]
    assert all((one - two).abs().max() > 1e-4 for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_parameter_of_the_fusion_learns(strategy: str) -> None:
    model = randomized(strategy).train()
    loss = model(LATENTS, torch.tensor([900.0, 250.0]), TEXT, MASK).sample.square().sum()
    auxiliary = model.auxiliary_loss()
    (loss if auxiliary is None else loss + auxiliary.sum()).backward()
    dead = [name for name, value in model.fusion.named_parameters() if value.grad is None or not value.grad.any()]
    assert not dead


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_a_tokenizers_mask_serves_as_it_comes(dtype: torch.dtype) -> None:
    model, times = randomized("joint"), torch.tensor([900.0, 250.0])
    expected = model(LATENTS, times, TEXT, MASK).sample
    assert model(LATENTS, times, TEXT, MASK.to(dtype)).sample.equal(expected)


def test_models_of_version_0_1_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for strategy in ("depth-wise", "joint"):
        model = randomized(strategy)
        model.save_pretrained(tmp_path / strategy)
        path = tmp_path / strategy / "diffusion_pytorch_model.safetensors"
        renamed = {
            name.replace("fusion.beta", "router.strategy.logits").replace("fusion.", "router.strategy."): value
            for name, value in load_file(path).items()
        }
        save_file(renamed, path)
        loaded = SemanticRoutingTransformer2DModel.from_pretrained(tmp_path / strategy)
        assert all(value.equal(loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_fusion_that_is_not_registered_is_named_with_its_place(tmp_path: Path) -> None:
    fresh("test-by-token").save_config(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["fusion_source"] == "example_fusions.ByToken"
    config = saved | {"strategy": "gone", "fusion_source": "my_fusions.WordGate"}
    with pytest.raises(ValueError, match=r"'gone', which is not registered: import my_fusions, which defines it"):
        SemanticRoutingTransformer2DModel.from_config(config)
