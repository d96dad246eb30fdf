import json
import re

import numpy as np
import pytest
from tiny_pipelines import QUICK, model_of, saved_pipeline
from typer.testing import CliRunner

from semantic_routing.analysis.base import ANALYSES, Analysis, choose
from semantic_routing.analysis.model import AnalysisOptions, SavedModel
from semantic_routing.analysis.report import analyze, describe_prompts
from semantic_routing.cli import app
from semantic_routing.fusion import FUSIONS
from semantic_routing.fusion.timestep_map import TimestepMap
from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.pipelines.saved import find_pipeline
from semantic_routing.reporting.arrays import NamedArray, write_arrays
from semantic_routing.scenes import SKILLS


def test_the_report_of_a_joint_model_has_everything_and_needs_no_network(language_models, tmp_path, monkeypatch):
    some = {name: FUSIONS[name] for name in ("penultimate", "joint", "test-unbuildable")}
    monkeypatch.setattr("semantic_routing.analysis.overhead.FUSIONS", some)
    page = analyze(str(saved_pipeline(language_models, "joint")), tmp_path / "out", (), QUICK)
    text = page.read_text()
    for name, analysis in ANALYSES.items():
        if name == "words":
            continue
        assert analysis.title in text.replace("&#39;", "'")
        folder = tmp_path / "out" / name
        assert json.loads((folder / f"{name}.json").read_text())
        assert list(folder.glob("*.csv"))
        pictures = sorted(path.stem for path in folder.glob("*.png"))
        assert pictures
        assert pictures == sorted(path.stem for path in folder.glob("*.svg"))
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("data:image/png;base64,") == len(list((tmp_path / "out").rglob("*.png")))
    assert "Left out, since they cannot be built here by default: test-unbuildable." in text
    assert text.count(" needs ") == 1
    assert "words needs layer weights that vary with the token" in text


def test_what_does_not_apply_is_left_out_with_a_sentence(language_models):
    chosen, left_out = choose([], model_of(language_models, "static"))
    assert list(chosen) == ["weights", "trajectory", "usage", "knob", "prompt", "overhead"]
    assert (
        "drift needs layer weights that vary with time; this model has the fusion static, which varies with nothing."
        in (left_out)
    )


@pytest.mark.parametrize(
    ("strategy", "applies"),
    [
        ("test-by-token", ["weights", "trajectory", "usage", "knob", "words", "prompt", "overhead"]),
        ("test-by-state", [name for name in ANALYSES if name not in ("shift", "words")]),
        ("test-mean", ["trajectory", "knob", "prompt", "overhead"]),
        ("test-signed", ["weights", "trajectory", "knob", "prompt", "overhead"]),
        ("test-unnamed", ["weights", "trajectory", "knob", "prompt", "overhead"]),
    ],
)
def test_a_fusion_of_ones_own_gets_what_it_can_have(language_models, strategy, applies):
    assert list(choose([], model_of(language_models, strategy))[0]) == applies


@pytest.mark.parametrize(
    ("only", "strategy", "sentence"),
    [
        (
            ["drift"],
            "depth-wise",
            "drift needs layer weights that vary with time; this model has the fusion depth",
        ),
        (["weights"], "test-mean", "which varies with nothing, and has no layer weights"),
        (["weigths"], "joint", "Unknown analysis 'weigths': expected one of weights, similarity"),
    ],
)
def test_asked_for_by_name_it_is_an_error(language_models, only, strategy, sentence):
    with pytest.raises(ValueError, match=sentence):
        choose(only, model_of(language_models, strategy))


def test_a_model_without_a_fusion_still_has_a_trajectory(language_models):
    files = model_of(language_models, "static").files
    config = {name: value for name, value in files.transformer.items() if name != "strategy"}
    for transformer in (config, {**config, "strategy": "fusedit"}):  # the latter is what version 0.1 wrote
        model = SavedModel(files._replace(transformer=transformer))
        assert list(choose([], model)[0]) == ["trajectory"]
        with pytest.raises(ValueError, match="weights needs a fusion that has layer weights; this model has no fusion"):
            choose(["weights"], model)


def test_an_analysis_of_ones_own_is_run_and_listed(language_models, tmp_path, monkeypatch):
    monkeypatch.setattr(ANALYSES, "_items", dict(ANALYSES))

    @ANALYSES.register("peak")
    class Peak(Analysis):
        title = "The most weight"
        needs = "a fusion that has layer weights"

        @classmethod
        def applies_to(cls, model):
            return model.weights is not None

        def compute(self, model):
            return {"peak": NamedArray(np.array([model.weights.values.max()]), {"model": ["this"]})}

        def draw(self, arrays, model):
            return []

    folder = str(saved_pipeline(language_models, "static"))
    page = analyze(folder, tmp_path / "out", ["peak"], QUICK)
    assert "The most weight" in page.read_text()
    assert (tmp_path / "out" / "peak" / "peak-peak.csv").is_file()
    listed = CliRunner().invoke(app, ["analyze", "--list"])
    assert listed.exit_code == 0, listed.output
    assert [line.split()[0] for line in listed.output.splitlines()] == list(ANALYSES)


def test_the_page_says_whether_a_model_was_trained_on_what_it_draws(language_models):
    files = model_of(language_models, "static").files
    sentences = {}
    for name, trained, skills in (
        ("unknown", None, None),
        ("trained", ("counting", "colors"), None),
        ("other", ("counting",), ("counting", "part")),
    ):
        model = SavedModel(files, AnalysisOptions(num_prompts=4, skills=skills))
        model.__dict__["trained_skills"] = trained
        sentences[name] = describe_prompts(model)
    assert "does not say what it was trained on" in sentences["unknown"]
    assert "from the skills counting, colors. It was trained on these skills." in sentences["trained"]
    assert "It was never trained on part" in sentences["other"]
    assert "They are not judged" in describe_prompts(model_of(language_models, "static"))


def test_trained_skills_are_those_of_the_config_beside_the_pipeline(language_models, tmp_path):
    assert find_pipeline("demo").trained_skills == (
        "single_object",
        "two_object",
        "counting",
        "colors",
        "position",
        "color_attr",
        "spatial_relation",
    )
    files = find_pipeline(str(saved_pipeline(language_models, "static")))._replace(folder=tmp_path)
    assert files.trained_skills is None
    for source, wanted in (
        ("{source: files, path: x}", None),
        ("{source: scenes}", SKILLS),
        ("{source: scenes, skills: [ordinal, colors]}", ("colors", "ordinal")),
    ):
        (tmp_path / "config.yaml").write_text(f"data: {{source: {source}}}")
        assert files.trained_skills == wanted


def test_a_map_is_saved_on_request_and_then_used(language_models, tmp_path):
    folder = tmp_path / "pipeline"
    load_pipeline(str(saved_pipeline(language_models, "time-wise"))).save_pretrained(folder)
    analyze(str(folder), tmp_path / "out", ["trajectory"], QUICK, save_map="paired")
    points = load_pipeline(str(folder)).config.timestep_map
    assert len(TimestepMap(points).points) == 21
    with pytest.raises(ValueError, match="sees the time; this model has the fusion static"):
        analyze(str(saved_pipeline(language_models, "static")), tmp_path / "no", ["trajectory"], QUICK, "paired")


def test_the_command_line_says_what_is_wrong(language_models, tmp_path):
    folder = str(saved_pipeline(language_models, "static"))
    wrong = CliRunner().invoke(app, ["analyze", folder, str(tmp_path), "--only", "drift"])
    assert isinstance(wrong.exception, ValueError)
    right = CliRunner().invoke(app, ["analyze", folder, str(tmp_path / "out"), "--only", "weights"])
    assert right.exit_code == 0, right.output
    assert (tmp_path / "out" / "index.html").is_file()


def test_arrays_keep_their_axes_in_both_files(tmp_path):
    array = NamedArray(np.array([[1.0, np.nan], [3.0, 4.5]]), {"block": [0, 1], "layer": [2, 5]})
    write_arrays({"thing": array}, tmp_path, "stem")
    rows = (tmp_path / "stem-thing.csv").read_text().splitlines()
    assert rows == ["block,layer,thing", "0,2,1", "0,5,", "1,2,3", "1,5,4.5"]
    assert json.loads((tmp_path / "stem.json").read_text())["thing"] == {
        "axes": {"block": [0, 1], "layer": [2, 5]},
        "values": [[1.0, None], [3.0, 4.5]],
    }
    assert array.at(layer=5, block=1) == 4.5
    with pytest.raises(ValueError, match="do not go with axes"):
        NamedArray(np.zeros(3), {"block": [0, 1]})
