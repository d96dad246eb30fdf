"""Layers dropped, doubled and heard alone while sampling."""

import dataclasses

import numpy as np
import pytest
from tiny_pipelines import NUM_LAYERS, QUICK, model_of

from semantic_routing.analysis.knob import SETTINGS, Knob
from semantic_routing.analysis.model import AnalysisOptions

ONE = dataclasses.replace(QUICK, prompts=("a red circle",), steps=2, guidance=1.0)


def test_each_setting_of_each_layer_is_sampled_from_the_same_noise(language_models):
    model = model_of(language_models, "uniform", options=ONE)
    arrays = Knob().compute(model)
    moved = arrays["moved"]
    assert moved.axes == {"setting": list(SETTINGS), "layer": list(range(1, NUM_LAYERS + 1))}
    assert moved.values.min() > 1e-5
    assert list(arrays) == ["moved"], "prompts that cannot be judged were judged"
    alone = model.pipeline(
        "a red circle", num_inference_steps=2, guidance_scale=1.0, latents=model.noise, output_type="latent",
        layer_gains={1: 0, 2: 0, 4: 0},
    ).images  # fmt: skip
    base = model.samples(1.0)
    assert moved.at(setting="alone", layer=3) == pytest.approx(float((alone - base).square().mean().sqrt()), rel=1e-4)


def test_a_layer_that_no_block_reads_moves_nothing(language_models):
    model = model_of(language_models, "static", options=ONE)
    beta = model.pipeline.transformer.fusion.beta
    beta.data[:] = 0
    beta.data[1] = -100
    moved = Knob().compute(model)["moved"]
    for setting in ("dropped", "doubled"):
        assert moved.at(setting=setting, layer=2) == pytest.approx(0, abs=1e-6)
        assert moved.at(setting=setting, layer=3) > 1e-4


def test_scenes_are_judged_and_compared_with_the_images_without_gains(language_models):
    options = AnalysisOptions(num_prompts=2, steps=2, guidance=1.0)
    model = model_of(language_models, "uniform", options=options)
    analysis, arrays = Knob(), Knob().compute(model)
    assert arrays["correct"].values.shape == (3, NUM_LAYERS, 2)
    arrays["correct"].values[:] = 0
    arrays["correct"].values[1, 2] = 1
    arrays["correct_as_trained"].values[:] = [1, 0]
    (table,) = analysis.tables(arrays, model)
    assert [row[0] for row in table.rows] == ["1", "2", "3", "4"]
    doubled = {header: cell.replace("\u00a0", " ") for header, cell in zip(table.header, table.rows[2], strict=True)}
    assert doubled["doubled: correct"] == "100.0 ± 0.0 %"
    assert doubled["doubled: change"].startswith("+50.0 ±")
    assert doubled["dropped: change"].startswith("−50.0 ±")
    assert [figure.name for figure in analysis.draw(arrays, model)] == ["knob", "dropped", "doubled", "alone"]
    assert not np.isnan(arrays["moved"].values).any()


def test_one_layer_is_no_choice(language_models):
    assert not Knob.applies_to(model_of(language_models, "penultimate"))
