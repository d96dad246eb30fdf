"""Parameters and FLOPs, counted on the model itself, against the paper's table 4 and against counts by hand."""

import pytest
import torch
from transformers import AutoConfig

from semantic_routing.fusion import FUSIONS
from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.flops import (
    ATTENTION,
    LANGUAGE_MODEL,
    LANGUAGE_MODEL_ATTENTION,
    Sampling,
    count_as_paper,
    count_forward,
    count_language_model,
    count_parameters,
    count_prompt_and_step,
    count_sampling,
)
from semantic_routing.training.build import build_transformer, language_model_config, resolve_sizes
from semantic_routing.training.config import load_config

PARAMETERS = {
    "penultimate": 2246.694,
    "uniform": 2246.694,
    "static": 2246.694,
    "time-wise": 2246.778,
    "depth-wise": 2246.695,
    "joint": 2248.722,
    "fusedit": 1711.647,
}
TERAFLOPS = {"penultimate": 454, "static": 454, "depth-wise": 470, "joint": 470, "fusedit": 357}
TINY = {"num_text_layers": 3, "text_channels": 40, "num_blocks": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"attention_head_dim": 8, "hidden_size": 24, "in_channels": 4, "sample_size": 8}


@pytest.mark.parametrize("strategy", PARAMETERS)
def test_presets_have_the_paper_s_parameters(strategy: str) -> None:
    config = load_config(f"paper/{strategy}")
    with torch.device("meta"):
        transformer = build_transformer(config, resolve_sizes(config))
    assert round(sum(count_parameters(transformer).values()) / 1e6, 3) == PARAMETERS[strategy]


@pytest.mark.parametrize("strategy", TERAFLOPS)
def test_presets_have_the_paper_s_flops(strategy: str) -> None:
    config = load_config(f"paper/{strategy}")
    sizes, language_model = resolve_sizes(config), language_model_config(config.text)
    with torch.device("meta"):
        transformer = build_transformer(config, sizes)
    layers = transformer.prompt_encoder_class.layers_computed(sizes.layers, language_model)
    assert layers == {"fusedit": 30, "penultimate": 35}.get(strategy, 36)
    counts = count_as_paper(transformer, language_model, layers if strategy == "fusedit" else None)
    assert round(sum(counts.values()) / 1e12) == TERAFLOPS[strategy]
    assert ATTENTION not in counts


def test_components_add_up_to_a_count_by_hand() -> None:
    rows, side, tokens = 2, 8, 5
    counts = count_forward(SemanticRoutingTransformer2DModel(strategy="depth-wise", **TINY), rows, side, tokens)
    image, blocks, width, heads, groups, text = (side // 2) ** 2, 3, 24, 32, 16, 40
    per_image_token = 2 * rows * image * blocks
    per_text_token = 2 * rows * tokens * blocks
    assert counts["self-attention"] == per_image_token * (2 * width * heads + 2 * width * groups)
    assert counts["cross-attention"] == per_image_token * 2 * width * heads
    assert counts["MLP"] == per_image_token * 3 * width * 4 * width
    assert counts["text keys and values"] == per_text_token * 2 * text * groups
    assert counts["context embedder"] == per_text_token * text * text
    assert counts["fusion"] == per_text_token * TINY["num_text_layers"] * text
    assert counts["patches in and out"] == 2 * rows * image * 2 * width * 4 * TINY["in_channels"]
    assert counts[ATTENTION] == per_image_token * 2 * heads * (image + tokens)


@pytest.mark.parametrize("strategy", [name for name in FUSIONS if not name.startswith("test-")])
def test_a_step_costs_what_it_costs_with_penultimate_unless_time_or_image_decide(strategy: str) -> None:
    models = (SemanticRoutingTransformer2DModel(strategy=name, **TINY) for name in ("penultimate", strategy))
    (_, base), (once, step) = (count_prompt_and_step(model, Sampling(8, 5, 1, 2)) for model in models)
    if FUSIONS[strategy].varies_with & {"timestep", "state"}:
        assert sum(step.values()) > sum(base.values())
    else:
        assert step == base
        assert "text keys and values" in once


@pytest.mark.parametrize("strategy", ["depth-wise", "joint"])
def test_the_sampler_repeats_only_what_depends_on_time(strategy: str) -> None:
    transformer = SemanticRoutingTransformer2DModel(strategy=strategy, **TINY)
    once, often = (count_sampling(transformer, Sampling(8, 5, steps, 2)) for steps in (1, 10))
    step = count_forward(transformer, 2, 8, 5)
    repeats = 10 if strategy == "joint" else 1
    for name in ("context embedder", "text keys and values"):
        assert often[name] == repeats * once[name] == repeats * step[name]
    for name in ("self-attention", "MLP", ATTENTION):
        assert often[name] == 10 * once[name] == 10 * step[name]


def test_fusions_count_by_hand() -> None:
    rows, tokens, layers, text, blocks = 2, 5, 3, 40, 3

    def count(strategy: str, **options: object) -> dict[str, int]:
        model = SemanticRoutingTransformer2DModel(strategy=strategy, fusion_options=options, **TINY)
        return count_forward(model, rows, 8, tokens)

    depth, per_token = count("depth-wise"), 2 * rows * tokens
    for strategy, times in (("key-value", 2), ("head-wise", 2)):
        counts = count(strategy)
        assert counts["fusion"] == times * depth["fusion"]
        assert counts["context embedder"] == times * depth["context embedder"]
    assert count("key-value")["text keys and values"] == depth["text keys and values"]
    assert count("head-wise")["text keys and values"] == 2 * depth["text keys and values"]
    assert count("token-wise", rank=4)["fusion"] == depth["fusion"] + per_token * layers * 4 * (text + blocks)
    assert count("bundles", bundles=3)["fusion"] == 3 * depth["fusion"]
    concat = count("concat")
    assert "fusion" not in concat
    assert concat["context embedder"] == per_token * 3 * text * text
    # Projections and MLP of 12 text² each, scores and sums over 3 layers, then over 5 tokens; then one mixture.
    attention = count("layer-attention", depth=1, refiners=1)
    across_layers = per_token * layers * (12 * text**2 + 2 * layers * text)
    across_tokens = per_token * (12 * text**2 + 2 * tokens * text)
    assert attention["fusion"] == across_layers + across_tokens + per_token * layers * text


def test_a_fusion_that_reads_the_image_works_in_every_step() -> None:
    transformer = SemanticRoutingTransformer2DModel(strategy="state-wise", **TINY)
    once, often = (count_sampling(transformer, Sampling(8, 5, steps, 2)) for steps in (1, 10))
    for name in ("fusion", "context embedder", "text keys and values", "self-attention"):
        assert often[name] == 10 * once[name]


def test_the_language_model_by_hand() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("qwen3", num_hidden_layers=4, head_dim=8, vocab_size=64, **sizes)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    for layers, run in ((None, 4), (3, 3)):
        counts = count_language_model(config, 2, 7, layers)
        assert counts[LANGUAGE_MODEL] == 2 * 2 * 7 * run * layer
        assert counts[LANGUAGE_MODEL_ATTENTION] >= 2 * 2 * 7 * run * 2 * 32 * 7
