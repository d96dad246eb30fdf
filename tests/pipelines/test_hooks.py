"""What diffusers attaches to models from outside: step caches and offloading."""

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler
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
