"""What diffusers attaches to models from outside: step caches and offloading."""

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
)
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.text.tiny import VOCABULARY_SIZE, tiny_tokenizer


@pytest.fixture
def pipeline() -> SemanticRoutingPipeline:
    torch.manual_seed(0)
    text = BertConfig(
        vocab_size=VOCABULARY_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    transformer = SemanticRoutingTransformer2DModel(
        strategy="joint",
        num_text_layers=2,
        text_channels=16,
        num_blocks=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_head_dim=8,
        hidden_size=16,
        in_channels=3,
        patch_size=4,
        sample_size=8,
    )
    nn.init.normal_(transformer.proj_out.weight)
    pipeline = SemanticRoutingPipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), BertModel(text).eval(), tiny_tokenizer()
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: SemanticRoutingPipeline) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipeline("a word", num_inference_steps=6, output_type="latent", generator=generator, return_dict=False)[0]


def test_a_step_cache_skips_blocks_when_little_changes(pipeline: SemanticRoutingPipeline) -> None:
    plain = sample(pipeline)
    calls: list[int] = []
    pipeline.transformer.blocks[2].mlp.register_forward_hook(lambda *_: calls.append(2))
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert sample(pipeline).equal(plain)
    assert len(calls) == 6
    pipeline.transformer.disable_cache()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    calls.clear()
    assert not sample(pipeline).equal(plain)
    assert len(calls) == 1


def test_offloading_brings_the_transformer_back_before_it_reads_text(pipeline: SemanticRoutingPipeline) -> None:
    order: list[str] = []

    class Watch(ModelHook):
        def pre_forward(self, module: nn.Module, *args: object, **kwargs: object) -> tuple[object, object]:
            order.append("loaded")
            return args, kwargs

    pipeline.transformer.context_embedder.register_forward_hook(lambda *_: order.append("context"))
    add_hook_to_module(pipeline.transformer, Watch())
    sample(pipeline)
    assert order[:3] == ["loaded", "loaded", "context"]  # to prepare the text, then to fuse it


def test_a_forecast_takes_the_place_of_attention(pipeline: SemanticRoutingPipeline) -> None:
    plain, calls = sample(pipeline), []
    pipeline.transformer.blocks[2].cross_attention.to_q.register_forward_hook(lambda *_: calls.append(1))
    pipeline.transformer.enable_cache(TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2))
    assert not sample(pipeline).equal(plain)
    assert len(calls) < 6
    pipeline.transformer.disable_cache()
    assert sample(pipeline).equal(plain)


def test_a_cache_that_measures_the_picture_knows_the_step(pipeline: SemanticRoutingPipeline) -> None:
    plain, calls = sample(pipeline), []
    pipeline.transformer.blocks[2].mlp.register_forward_hook(lambda *_: calls.append(1))
    pipeline.transformer.enable_cache(SeaCacheConfig(threshold=1e9))
    assert not sample(pipeline).equal(plain)
    assert len(calls) < 6


def test_rows_without_a_prompt_can_be_forecast(pipeline: SemanticRoutingPipeline) -> None:
    plain, rows = sample(pipeline), []
    pipeline.transformer.blocks[2].mlp.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    config = FasterCacheConfig(
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipeline.current_timestep,
    )
    pipeline.transformer.enable_cache(config)
    moved = sample(pipeline)
    assert rows == [2, 1, 2, 1, 2, 1]
    assert moved.isfinite().all()
    assert not moved.equal(plain)


def test_a_cache_that_cannot_know_the_time_is_refused(pipeline: SemanticRoutingPipeline) -> None:
    with pytest.raises(ValueError, match="FasterCacheConfig needs the timestep"):
        pipeline.transformer.enable_cache(FasterCacheConfig())
    assert not pipeline.transformer.is_cache_enabled


def test_what_a_cache_is_told_stays(pipeline: SemanticRoutingPipeline) -> None:
    plain = sample(pipeline)
    told = TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, cache_identifiers=["nothing"])
    pipeline.transformer.enable_cache(told)
    assert sample(pipeline).equal(plain)
