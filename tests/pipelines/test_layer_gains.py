"""Layers scaled, dropped and heard alone by a pipeline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import TRANSFORMER_SIZES
from torch import Tensor

from semantic_routing.models import FuseDiTTransformer2DModel, SemanticRoutingTransformer2DModel
from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.text import load_language_model, load_tokenizer


@pytest.fixture
def make(language_models: Callable[[str], Path]) -> Callable[..., SemanticRoutingPipeline]:
    def pipeline(transformer: Any) -> SemanticRoutingPipeline:
        folder = str(language_models("qwen3"))
        generator = torch.Generator().manual_seed(0)
        for parameter in transformer.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        layers = "all" if isinstance(transformer, SemanticRoutingTransformer2DModel) else [1, 2]
        scheduler = FlowMatchEulerDiscreteScheduler()
        made = SemanticRoutingPipeline(
            transformer.eval(), scheduler, load_language_model(folder), load_tokenizer(folder), text_layers=layers
        )
        made.set_progress_bar_config(disable=True)
        return made

    return pipeline


def sample(pipeline: SemanticRoutingPipeline, gains: Any = None, scale: float = 1.0) -> Tensor:
    return pipeline(
        ["a red circle", "two blue squares"],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        layer_gains=gains,
        fusion_scale=scale,
        output_type="latent",
        return_dict=False,
    )[0]


@pytest.mark.parametrize("strategy", ["depth-wise", "joint", "state-wise", "key-value", "concat"])
def test_gains_change_the_image_and_ones_do_not(make: Callable[..., Any], strategy: str) -> None:
    pipeline = make(SemanticRoutingTransformer2DModel(strategy=strategy, **TRANSFORMER_SIZES))
    plain = sample(pipeline)
    torch.testing.assert_close(sample(pipeline, {"all": 1}), plain)
    changed = [sample(pipeline, gains) for gains in ({2: 0}, {"all": 0, 3: 1}, {(1, 2): 4.0})]
    assert all((image - plain).abs().max() > 1e-4 for image in changed)
    torch.testing.assert_close(sample(pipeline), plain)  # nothing is kept


def test_one_layer_alone_is_a_model_of_that_layer(make: Callable[..., Any]) -> None:
    pipeline = make(SemanticRoutingTransformer2DModel(strategy="depth-wise", **TRANSFORMER_SIZES))
    alone = sample(pipeline, {"all": 0, 3: 1})
    pipeline.transformer.fusion.beta.data.fill_(-1e4)[:, 2] = 1e4
    torch.testing.assert_close(sample(pipeline), alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strategy", ["depth-wise", "joint", "state-wise"])
def test_a_scale_of_0_is_a_model_that_reads_all_layers_evenly(make: Callable[..., Any], strategy: str) -> None:
    pipeline = make(SemanticRoutingTransformer2DModel(strategy=strategy, **TRANSFORMER_SIZES))
    plain, mean, louder = (sample(pipeline, scale=scale) for scale in (1.0, 0.0, 3.0))
    assert (louder - plain).abs().max() > 1e-4
    assert sample(pipeline).equal(plain)
    for parameter in pipeline.transformer.fusion.parameters():
        parameter.data.zero_()
    even = sample(pipeline)
    torch.testing.assert_close(mean, even)
    assert (even - plain).abs().max() > 1e-4


def test_what_cannot_be_is_said(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"Layer 5 has a gain but is not read: the model reads \[1, 2, 3, 4\]"):
        sample(make(SemanticRoutingTransformer2DModel(strategy="static", **TRANSFORMER_SIZES)), {5: 0})
    sizes = {**TRANSFORMER_SIZES, "num_text_layers": 2, "text_channels": 32}
    with pytest.raises(ValueError, match="this transformer has none"):
        sample(make(FuseDiTTransformer2DModel(**sizes)), {1: 0})
    with pytest.raises(ValueError, match="has no fusion: expected 1"):
        sample(make(FuseDiTTransformer2DModel(**sizes)), scale=0.0)
