import json

import numpy as np
import pytest
import torch
from tiny_pipelines import QUICK, model_of, saved_pipeline

from semantic_routing.analysis.prune import choose_layers, context_change, prune, rank_layers
from semantic_routing.analysis.samples import starting_noise
from semantic_routing.analysis.usage import Usage
from semantic_routing.fusion import Moment
from semantic_routing.fusion.combine import normalize
from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.pipelines.prune import prune_pipeline
from semantic_routing.pipelines.replace import with_strategy
from semantic_routing.reporting.arrays import NamedArray

WEIGHTS = NamedArray(
    np.array([[0.1, 0.5, 0.1, 0.3], [0.2, 0.2, 0.2, 0.4], [0.1, 0.1, 0.2, 0.6]]),
    {"block": range(3), "layer": [1, 2, 3, 4]},
)
WEIGHTS_OF_TWO_BLOCKS = {"block": range(2), "layer": [1, 2, 3, 4]}


def test_layers_rank_by_their_most_weight_and_equals_by_depth():
    assert rank_layers(WEIGHTS) == [3, 1, 0, 2]
    assert choose_layers(WEIGHTS, keep=2) == [1, 3]
    assert choose_layers(WEIGHTS, threshold=0.5) == [1, 3]
    assert choose_layers(WEIGHTS, threshold=0.2) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({}, "either"),
        ({"keep": 1, "threshold": 0.5}, "either"),
        ({"threshold": 0.7}, "No layer has a weight of 0.7; the most is 0.6"),
        ({"keep": 5}, "1 to 4 can be kept, not 5"),
    ],
)
def test_choices_that_cannot_be(choice, sentence):
    with pytest.raises(ValueError, match=sentence):
        choose_layers(WEIGHTS, **choice)


def test_weights_of_either_sign_rank_by_their_size(language_models):
    model = model_of(language_models, "signed")
    model.weights = NamedArray(np.array([[-0.9, 0.1, 0.1, 0.7], [0.0, 0.2, 0.1, 0.1]]), WEIGHTS_OF_TWO_BLOCKS)
    assert rank_layers(model.magnitudes) == [0, 3, 1, 2]
    assert Usage.applies_to(model)
    assert not model.weight_axes, "these are no distributions"


def test_layers_without_weight_are_not_kept():
    one = NamedArray(np.array([0.0, 1.0, 0.0]), {"layer": [1, 2, 3]})
    with pytest.raises(ValueError, match="1 to 1 can be kept, not 2"):
        choose_layers(one, keep=2)


def sample(pipeline):
    noise = starting_noise(pipeline, 2, 0)
    return pipeline(
        ["a red circle", "a star"], num_inference_steps=3, guidance_scale=2.0, latents=noise, output_type="latent"
    ).images


@pytest.mark.parametrize("strategy", ["joint", "penultimate", "test-by-token"])
def test_keeping_all_layers_changes_nothing(language_models, strategy):
    pipeline = load_pipeline(str(saved_pipeline(language_models, strategy)))
    everything = list(range(pipeline.transformer.config.num_text_layers))
    torch.testing.assert_close(sample(prune_pipeline(pipeline, everything)), sample(pipeline))
    assert context_change(pipeline.transformer.fusion, pipeline.prompt_encoder(["a star"]), everything).largest < 1e-5


def test_the_pruned_context_is_the_renormalized_one_and_its_change_is_measured(language_models):
    pipeline = load_pipeline(str(saved_pipeline(language_models, "depth-wise")))
    kept, prompts = [0, 2], ["a red circle", "a star"]
    small = prune_pipeline(pipeline, kept)
    whole_text = pipeline.transformer.prepare_text(*pipeline.prompt_encoder(prompts))
    text = small.transformer.prepare_text(*small.prompt_encoder(prompts))
    assert text.features.equal(whole_text.features[:, kept])
    moment = Moment(torch.tensor([500.0]))
    whole = pipeline.transformer.fusion(whole_text, moment)
    pruned = small.transformer.fusion(text, moment)
    weights = pipeline.transformer.fusion.layer_weights(None, moment)[:, 0, 0, kept]
    weights = weights / weights.sum(-1, keepdim=True)
    wanted = torch.einsum("dl,blnc->dbnc", weights, normalize(text.features))
    torch.testing.assert_close(pruned, wanted)
    change = ((pruned - whole).norm(dim=-1) / whole.norm(dim=-1))[:, whole_text.mask]
    assert context_change(pipeline.transformer.fusion, pipeline.prompt_encoder(prompts), kept).largest == pytest.approx(
        change.max().item(), rel=1e-4
    )


def test_the_change_of_context_is_taken_over_all_times(language_models, monkeypatch):
    pipeline = load_pipeline(str(saved_pipeline(language_models, "time-wise")))

    def change(*times):
        monkeypatch.setattr("semantic_routing.analysis.prune.FINE_TIMES", times)
        return context_change(pipeline.transformer.fusion, pipeline.prompt_encoder(["a star"]), [0, 2])

    early, late, both = change(0.1), change(0.9), change(0.1, 0.9)
    assert early.largest != late.largest
    assert both.largest == max(early.largest, late.largest)
    assert both.mean == pytest.approx((early.mean + late.mean) / 2)


def test_prune_writes_a_smaller_pipeline_that_samples_as_it_says(language_models, tmp_path):
    folder = saved_pipeline(language_models, "joint")
    out = tmp_path / "small"
    sentences = prune(str(folder), out, keep=2, options=QUICK)
    numbers = json.loads((out / "pruned.json").read_text())
    whole, small = load_pipeline(str(folder)), load_pipeline(str(out))
    kept = choose_layers(model_of(language_models, "joint").distributions, keep=2)
    assert small.config.text_layers == numbers["layers"] == [position + 1 for position in kept]
    assert small.transformer.config.num_text_layers == 2
    deepest = max(numbers["layers"])
    assert small.text_encoder.config.num_hidden_layers == deepest
    torch.testing.assert_close(sample(small), sample(prune_pipeline(whole, kept)), rtol=1e-4, atol=1e-4)
    assert any(f"stops after layer {deepest} of 4" in sentence for sentence in sentences)
    with pytest.raises(ValueError, match="exists already"):
        prune(str(folder), out, keep=2, options=QUICK)


def test_a_pruned_pipeline_can_be_pruned_again(language_models):
    pipeline = load_pipeline(str(saved_pipeline(language_models, "joint")))
    once = prune_pipeline(pipeline, [0, 1, 3])
    twice = prune_pipeline(once, [1, 2])
    assert twice.config.text_layers == [2, 4]
    torch.testing.assert_close(sample(twice), sample(prune_pipeline(pipeline, [1, 3])))


def test_a_fusion_that_reads_the_image_is_pruned_by_the_weights_it_has_while_sampling(language_models, tmp_path):
    folder = saved_pipeline(language_models, "test-by-state")
    prune(str(folder), tmp_path / "small", keep=3, options=QUICK)
    small = load_pipeline(str(tmp_path / "small"))
    assert small.transformer.fusion.sizes.num_layers == 3
    assert sample(small).isfinite().all()
    assert json.loads((tmp_path / "small" / "pruned.json").read_text())["context_change"] is None


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ("test-mean", "has no layer weights"),
        ("test-plain-weights", "cannot drop layers"),
        ("test-unnamed", "layer_axes does not"),
    ],
)
def test_a_fusion_that_cannot_be_pruned_says_so(language_models, tmp_path, strategy, sentence):
    folder = saved_pipeline(language_models, strategy)
    with pytest.raises(ValueError, match=sentence):
        prune(str(folder), tmp_path / "small", keep=2, options=QUICK)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("strategy", ["penultimate", "time-wise", "test-wide"])
def test_another_strategy_shares_the_backbone(language_models, strategy):
    pipeline = load_pipeline(str(saved_pipeline(language_models, "depth-wise")))
    other = with_strategy(pipeline, strategy)
    assert other.transformer.config.strategy == strategy
    assert other.transformer.blocks is pipeline.transformer.blocks
    assert other.transformer.fusion.varies_with == type(other.transformer.fusion).varies_with
    assert not any(parameter.is_meta for parameter in other.transformer.parameters())
    assert sample(other).isfinite().all()
    assert pipeline.transformer.config.strategy == "depth-wise"
