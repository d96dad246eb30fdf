import json

import numpy as np
import pytest
import torch
from tiny_pipelines import QUICK, saved_pipeline, subject_of

from semantic_routing.analysis.base import FINE_TIMES
from semantic_routing.analysis.prune import choose_layers, context_change, prune, prune_pipeline, rank_layers, restrict
from semantic_routing.analysis.sampling import starting_noise
from semantic_routing.fusion.combine import normalize
from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.reporting.arrays import NamedArray

WEIGHTS = NamedArray(
    np.array([[0.1, 0.5, 0.1, 0.3], [0.2, 0.2, 0.2, 0.4], [0.1, 0.1, 0.2, 0.6]]),
    {"block": range(3), "layer": [1, 2, 3, 4]},
)


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


def test_layers_without_weight_are_not_kept():
    one = NamedArray(np.array([0.0, 1.0, 0.0]), {"layer": [1, 2, 3]})
    with pytest.raises(ValueError, match="1 to 1 can be kept, not 2"):
        choose_layers(one, keep=2)


@pytest.mark.parametrize("strategy", ["uniform", "static", "time-wise", "depth-wise", "joint"])
@pytest.mark.parametrize("kept", [[1], [0, 2], [0, 1, 2, 3]])
def test_the_weights_of_what_is_kept_are_renormalized(language_models, strategy, kept):
    router = subject_of(language_models, strategy).router
    timestep = torch.tensor([1000.0, 400.0, 0.0])
    whole = router.weights(timestep)[..., kept]
    torch.testing.assert_close(restrict(router, strategy, kept).weights(timestep), whole / whole.sum(-1, keepdim=True))


def sample(pipeline):
    noise = starting_noise(pipeline, 2, 0)
    return pipeline(
        ["a red circle", "a star"], num_inference_steps=3, guidance_scale=2.0, latents=noise, output_type="latent"
    ).images


@pytest.mark.parametrize("strategy", ["joint", "penultimate"])
def test_keeping_all_layers_changes_nothing(language_models, strategy):
    pipeline = load_pipeline(str(saved_pipeline(language_models, strategy)))
    everything = list(range(pipeline.transformer.config.num_text_layers))
    torch.testing.assert_close(sample(prune_pipeline(pipeline, everything)), sample(pipeline))
    assert context_change(pipeline, everything, ["a star"]).largest < 1e-5


def test_the_pruned_context_is_the_renormalized_one_and_its_change_is_measured(language_models):
    pipeline = load_pipeline(str(saved_pipeline(language_models, "depth-wise")))
    kept, prompts = [0, 2], ["a red circle", "a star"]
    small = prune_pipeline(pipeline, kept)
    whole_text = pipeline.transformer.prepare_text(*pipeline.prompt_encoder(prompts))
    text = small.transformer.prepare_text(*small.prompt_encoder(prompts))
    assert text.features.equal(whole_text.features[:, kept])
    timestep = torch.tensor([500.0])
    whole = pipeline.transformer.router(whole_text, timestep)
    pruned = small.transformer.router(text, timestep)
    weights = pipeline.transformer.router.weights(timestep)[:, 0, kept]
    weights = weights / weights.sum(-1, keepdim=True)
    wanted = torch.einsum("dl,blnc->dbnc", weights, normalize(text.features))
    torch.testing.assert_close(pruned, wanted)
    change = ((pruned - whole).norm(dim=-1) / whole.norm(dim=-1))[:, whole_text.mask]
    assert context_change(pipeline, kept, prompts).largest == pytest.approx(change.max().item(), rel=1e-4)


def test_prune_writes_a_smaller_pipeline_that_samples_as_it_says(language_models, tmp_path):
    folder = saved_pipeline(language_models, "joint")
    sentences = []
    out = prune(str(folder), tmp_path / "small", keep=2, options=QUICK, report=sentences.append)
    numbers = json.loads((out / "pruned.json").read_text())
    whole, small = load_pipeline(str(folder)), load_pipeline(str(out))
    subject = subject_of(language_models, "joint")
    kept = choose_layers(subject.weights(FINE_TIMES), keep=2)
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
