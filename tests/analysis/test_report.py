import json
import re

import numpy as np
import pytest
from tiny_pipelines import QUICK, saved_pipeline
from typer.testing import CliRunner

from semantic_routing.analysis.registry import ANALYSES, choose
from semantic_routing.analysis.report import analyze
from semantic_routing.cli import app
from semantic_routing.fusion.timestep_map import TimestepMap
from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.reporting.arrays import NamedArray, write_arrays


def test_the_report_of_a_joint_model_has_everything_and_needs_no_network(language_models, tmp_path):
    page = analyze(str(saved_pipeline(language_models, "joint")), tmp_path / "out", (), QUICK)
    text = page.read_text()
    for name, analysis in ANALYSES.items():
        assert analysis.title in text.replace("&#39;", "'")
        folder = tmp_path / "out" / name
        assert json.loads((folder / f"{name}.json").read_text())
        assert list(folder.glob("*.csv"))
        pictures = sorted(path.stem for path in folder.glob("*.png"))
        assert pictures
        assert pictures == sorted(path.stem for path in folder.glob("*.svg"))
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("data:image/png;base64,") == len(list((tmp_path / "out").rglob("*.png")))
    assert "Left out" not in text


def test_what_does_not_apply_is_left_out_with_a_sentence(language_models, tmp_path):
    weight_only = [name for name, analysis in ANALYSES.items() if analysis.needs == "weights"]
    chosen, skipped = choose([], "static")
    assert "drift applies to time-wise, joint; this model's strategy is static." in skipped
    assert {analysis.name for analysis in chosen} == {"weights", "trajectory", "usage", "prompt", "overhead"}
    assert weight_only == ["weights", "similarity", "trend", "drift"]


@pytest.mark.parametrize(
    ("only", "strategy", "sentence"),
    [
        (["drift"], "depth-wise", "drift applies to time-wise, joint; this model's strategy is depth-wise"),
        (["weights"], "fusedit", "weights applies to penultimate, uniform, static, time-wise, depth-wise, joint"),
        (["weigths"], "joint", "Unknown analysis 'weigths': expected one of weights, similarity"),
    ],
)
def test_asked_for_by_name_it_is_an_error(only, strategy, sentence):
    with pytest.raises(ValueError, match=sentence):
        choose(only, strategy)


def test_a_model_without_a_router_still_has_a_trajectory():
    assert [analysis.name for analysis in choose([], "fusedit")[0]] == ["trajectory"]


def test_a_map_is_saved_on_request_and_then_used(language_models, tmp_path):
    folder = tmp_path / "pipeline"
    load_pipeline(str(saved_pipeline(language_models, "time-wise"))).save_pretrained(folder)
    analyze(str(folder), tmp_path / "out", ["trajectory"], QUICK, save_map="paired")
    points = load_pipeline(str(folder)).config.timestep_map
    assert len(TimestepMap(points).points) == 21
    with pytest.raises(ValueError, match="strategy here is static"):
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
