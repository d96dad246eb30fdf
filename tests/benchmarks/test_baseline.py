"""The reference's way gives what the library gives: only then does its cost mean anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CAPTIONS, NUM_LAYERS, TEXT_CHANNELS, TRANSFORMER_SIZES, normal

from benchmarks.baseline import PaddedTextEncoder, ReferenceWay
from semantic_routing.data import Batch
from semantic_routing.flow_config import FlowConfig
from semantic_routing.fusion import PAPER_STRATEGIES
from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.latents import LatentCodec
from semantic_routing.models.timestep import TIMESTEP_CONDITIONINGS
from semantic_routing.text import TextEncoder, load_language_model, load_tokenizer
from semantic_routing.training.step import batch_loss


def randomized(**options: Any) -> SemanticRoutingTransformer2DModel:
    model = SemanticRoutingTransformer2DModel(**TRANSFORMER_SIZES, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    "options",
    [
        *({"strategy": strategy} for strategy in PAPER_STRATEGIES),
        *({"timestep_conditioning": conditioning} for conditioning in TIMESTEP_CONDITIONINGS),
        {"position_embedding": "sincos", "sandwich_norm": True},
    ],
)
@torch.no_grad()
def test_the_reference_s_way_gives_the_library_s_prediction(options: dict[str, Any]) -> None:
    model = randomized(**options)
    mask = torch.arange(16) < torch.tensor([[4], [9]])
    scales = torch.logspace(-1, 2, NUM_LAYERS)[:, None, None]
    inputs = normal(2, 3, 8, 6), torch.tensor([900.0, 250.0]), scales * normal(2, NUM_LAYERS, 16, TEXT_CHANNELS), mask
    torch.testing.assert_close(ReferenceWay(model)(*inputs).sample, model(*inputs).sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_in_the_reference_s_way_gives_the_library_s_gradients(
    language_models: Callable[[str], Path], checkpointing: bool
) -> None:
    model = randomized(strategy="joint")
    if checkpointing:
        model.enable_gradient_checkpointing()
    folder = str(language_models("qwen3"))
    parts = load_language_model(folder), load_tokenizer(folder)
    batch = Batch(normal(4, 3, 8, 8), list(CAPTIONS), torch.arange(4), [])
    gradients = []
    for transformer, encoder in (
        (model, TextEncoder(*parts, max_length=24)),
        (ReferenceWay(model), PaddedTextEncoder(*parts, max_length=24)),
    ):
        model.zero_grad()
        losses = batch_loss(
            transformer, batch, encoder, LatentCodec(), FlowConfig(), "velocity", torch.device("cpu"), torch.float32
        )
        losses.mean().backward()
        gradients.append({"loss": losses.detach(), **{name: value.grad for name, value in model.named_parameters()}})
    ours, reference = gradients
    for name, gradient in ours.items():
        torch.testing.assert_close(reference[name], gradient, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_padded_encoder_computes_the_padding(language_models: Callable[[str], Path]) -> None:
    folder = str(language_models("qwen3"))
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    seen = []
    model.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["input_ids"].shape), with_kwargs=True
    )
    features = PaddedTextEncoder(model, tokenizer, max_length=24)(CAPTIONS)
    assert seen == [(4, 24)]
    ours = TextEncoder(model, tokenizer)(CAPTIONS)
    length = ours.mask.shape[1]
    assert features.hidden_states.shape[2] == 24
    assert features.mask[:, :length].equal(ours.mask)
    assert not features.mask[:, length:].any()
    real = ours.mask[:, None, :, None]
    torch.testing.assert_close(
        features.hidden_states[:, :, :length] * real, ours.hidden_states * real, rtol=1e-4, atol=1e-4
    )
