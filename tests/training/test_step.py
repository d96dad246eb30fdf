from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semantic_routing.data import Batch
from semantic_routing.flow import flow_matching_loss, interpolate, loss_weight, sample_timesteps
from semantic_routing.flow_config import FlowConfig
from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.latents import LatentCodec
from semantic_routing.text import TextEncoder, load_language_model
from semantic_routing.text.tiny import TEXT_CHANNELS, tiny_tokenizer
from semantic_routing.training.step import batch_loss

CPU = torch.device("cpu")
SEEDS = [5, 6, 7]
CAPTIONS = ["a red circle", "", "two blue squares and a green star"]
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def encoder(language_models: Callable[[str], Path]) -> TextEncoder:
    return TextEncoder(load_language_model(str(language_models("llama"))), tiny_tokenizer())


@pytest.fixture(scope="module", params=["velocity", "sample"])
def transformer(request: pytest.FixtureRequest) -> SemanticRoutingTransformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SemanticRoutingTransformer2DModel(
            "joint", 4, TEXT_CHANNELS, 2, 4, 2, 8, 24, 3, 4, 16, prediction=request.param
        )
        torch.nn.init.normal_(model.proj_out.weight)
    return model


def loss(model: Any, encoder: TextEncoder, rows: list[int]) -> Tensor:
    batch = Batch(IMAGES[rows], [CAPTIONS[row] for row in rows], torch.tensor([SEEDS[row] for row in rows]), [])
    flow = FlowConfig(timestep_mean=0.5, shift=2.0, weight_power=1.0)
    with torch.no_grad():
        return batch_loss(model, batch, encoder, LatentCodec(), flow, model.config.prediction, CPU, torch.float32)


def test_the_loss_is_that_of_flow_matching(transformer: Any, encoder: TextEncoder) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    times = sample_timesteps(generators, 0.5, 1.0, 2.0)
    noise = torch.stack([torch.randn(3, 16, 16, generator=generator) for generator in generators])
    noisy = interpolate(IMAGES, noise, times)
    features = encoder(CAPTIONS)
    with torch.no_grad():
        output = transformer(noisy, times, features.hidden_states, features.mask).sample
    expected = flow_matching_loss(output, IMAGES, noise, transformer.config.prediction)
    torch.testing.assert_close(loss(transformer, encoder, [0, 1, 2]), expected * loss_weight(times, 1.0))


def test_an_example_has_the_same_loss_in_any_batch(transformer: Any, encoder: TextEncoder) -> None:
    together = loss(transformer, encoder, [0, 1, 2])
    for row in range(3):
        torch.testing.assert_close(loss(transformer, encoder, [row]), together[row : row + 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss(transformer, encoder, [2, 0]), together[[2, 0]], rtol=1e-4, atol=1e-5)
