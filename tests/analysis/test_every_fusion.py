"""Every fusion that is registered, under the analyses that it can have."""

import pytest
from tiny_pipelines import QUICK, model_of, saved_pipeline

from semantic_routing.analysis import ANALYSES
from semantic_routing.analysis.base import choose
from semantic_routing.analysis.model import AnalysisOptions
from semantic_routing.analysis.prune import prune
from semantic_routing.fusion import FUSIONS

OPTIONS = AnalysisOptions(prompts=QUICK.prompts[1:], steps=2, guidance=1.0, rounds=1)
GALLERY = [name for name in FUSIONS if not name.startswith("test-")]
WITHOUT_WEIGHTS = {"concat", "layer-attention", "bundles"}
CANNOT_DROP = {*WITHOUT_WEIGHTS, "layer-map"}


@pytest.mark.parametrize("strategy", GALLERY)
def test_every_fusion_has_its_analyses_or_a_sentence(language_models, strategy, tmp_path):
    model = model_of(language_models, strategy, options=OPTIONS)
    chosen, left_out = choose([], model)
    assert [sentence.split()[0] for sentence in left_out] == [name for name in ANALYSES if name not in chosen]
    for sentence in left_out:
        assert f"this model has the fusion {strategy}" in sentence
        assert sentence.count(". ") == 0, "more than one sentence"
    assert ("weights" in chosen) == (strategy not in WITHOUT_WEIGHTS)
    assert ("usage" in chosen) == (strategy not in CANNOT_DROP)
    assert ("words" in chosen) == (strategy == "token-wise")
    assert ("knob" in chosen) == (strategy != "penultimate")
    for name in chosen.keys() & {"weights", "similarity", "trend", "usage", "words", "knob", "prompt"}:
        arrays = model.result(name)
        assert arrays
        assert chosen[name].draw(arrays, model)
        chosen[name].describe(arrays, model)
        chosen[name].tables(arrays, model)
    source = str(saved_pipeline(language_models, strategy))
    if strategy in CANNOT_DROP:
        with pytest.raises(ValueError, match=r"needs layer weights|cannot drop layers"):
            prune(source, tmp_path / "pruned", keep=1, options=OPTIONS)
    else:
        told = prune(source, tmp_path / "pruned", keep=1, options=OPTIONS)
        assert told[0].startswith("Keeps layers [")
