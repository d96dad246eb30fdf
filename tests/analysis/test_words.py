"""Layers by word and by kind of word."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_pipelines import QUICK, model_of

from semantic_routing.analysis.model import AnalysisOptions
from semantic_routing.analysis.words import Words, words_of
from semantic_routing.fusion import Moment
from semantic_routing.scenes.words import kind_of_word


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("red", "color"),
        ("Crosses", "shape"),
        ("object", "shape"),
        ("two", "number"),
        ("3", "number"),
        ("beneath", "relation"),
        ("left", "relation"),
        ("big", "size"),
        ("outline", "part"),
        ("lavender", "background"),
        ("of", "function word"),
        ("no", "function word"),
    ],
)
def test_kinds_of_words(word, kind):
    assert kind_of_word(word) == kind


def test_a_word_is_the_mean_of_its_tokens_and_blocks(language_models):
    options = dataclasses.replace(QUICK, prompts=("a red circle",))
    model = model_of(language_models, "token-wise", options=options)
    arrays = Words().compute(model)
    assert arrays["by_word"].axes["word"] == ["0: a", "1: red", "2: circle"]
    assert list(arrays) == ["by_word"], "kinds of words are known in prompts of scenes alone"
    pipeline = model.pipeline
    prepared = pipeline.transformer.prepare_text(*pipeline.prompt_encoder(["a red circle"]))
    with torch.no_grad():
        wanted = pipeline.transformer.fusion.layer_weights(prepared, Moment(torch.tensor([0.0])))[:, 0].mean(0)
    np.testing.assert_allclose(arrays["by_word"].values, wanted, atol=1e-5)
    assert np.ptp(arrays["by_word"].values, axis=0).max() > 1e-3


def test_kinds_are_means_over_the_words_of_all_prompts(language_models):
    model = model_of(language_models, "token-wise", options=AnalysisOptions(num_prompts=6))
    arrays = Words().compute(model)
    count = arrays["count"]
    every = [word for prompt in model.prompts for word in prompt.replace(",", " ").split()]
    assert count.values.sum() == len(every)
    colors = sum(kind_of_word(word) == "color" for word in every)
    assert colors
    assert count.at(kind="color") == colors
    np.testing.assert_allclose(arrays["by_kind"].values.sum(-1), 1, atol=1e-5)
    assert [figure.name for figure in Words().draw(arrays, model)] == ["by-word", "by-kind", "kinds"]
    assert [row[0] for row in Words().tables(arrays, model)[0].rows] == count.axes["kind"]


def test_words_are_found_after_an_instruction_and_until_the_cut(language_models):
    encoder = model_of(language_models, "token-wise").pipeline.prompt_encoder
    assert words_of(encoder, "a red circle") == [("a", [0]), ("red", [1]), ("circle", [2])]
    encoder.instruction, encoder.max_length = "draw ", 3
    assert words_of(encoder, "a red circle") == [("a", [1]), ("red", [2])]
