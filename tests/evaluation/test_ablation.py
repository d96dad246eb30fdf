"""An ablation end to end at a budget of a few steps, and the arithmetic of its tables."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from semantic_routing.evaluation.report import Measure, Tally, summarize
from semantic_routing.experiments.ablation import AblationOptions, Cell, make_cells, run_ablation
from semantic_routing.experiments.ablation_page import difference, loss_table, over_runs, write_ablation
from semantic_routing.training.checkpoint import checkpoint_step, list_checkpoints
from semantic_routing.training.config import load_config

OPTIONS = AblationOptions(prompts_per_half=1, steps=2, batch_size=30)


@pytest.fixture
def config(tiny_values, tmp_path):
    values = {**tiny_values, "data": {**tiny_values["data"], "image_size": 32}}
    values["training"] = {**values["training"], "steps": 4, "checkpoint_every": 2, "keep_checkpoints": 2}
    path = tmp_path / "base.yaml"
    path.write_text(json.dumps(values))
    return path


def cells_of(config, out, **changes):
    names = {"strategies": ["uniform", "joint"], "seeds": [0, 1], **changes}
    return make_cells(str(config), changes.get("overrides", []), names["strategies"], names["seeds"], out)


def test_from_a_config_to_the_page(config, tmp_path, monkeypatch):
    out = tmp_path / "ablation"
    cells = cells_of(config, out, seeds=[0])
    run_ablation(cells, OPTIONS)
    # As if the second run had been interrupted half-way.
    half = list_checkpoints(cells[1].run)
    assert [checkpoint_step(path) for path in half] == [2, 4]
    shutil.rmtree(half[1])
    shutil.rmtree(cells[1].pipeline)
    shutil.rmtree(cells[1].folder / "scenes")
    stamp = (cells[0].run / "metrics.jsonl").stat().st_mtime_ns
    run_ablation(cells, OPTIONS)
    assert (cells[0].run / "metrics.jsonl").stat().st_mtime_ns == stamp, "a finished run was run again"
    page = write_ablation(cells, OPTIONS, out).read_text()
    for heading in ("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Learning curves", "Samples"):
        assert heading in page
    assert page.count("<img") == 1 + 8 * 2
    rows = (out / "table-1.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["strategy", "uniform", "joint"]
    assert (out / "table-3.csv").read_text().splitlines()[1].startswith("joint,")
    first, second = (row.split(",") for row in (out / "table-5.csv").read_text().splitlines()[1:])
    assert (first[0], first[-1], second[0]) == ("uniform", "", "joint")
    scores = json.loads((out / "scores.json").read_text())
    assert [len(values) for label in scores for values in scores[label]] == [30, 30]
    monkeypatch.setattr("semantic_routing.experiments.ablation.train", lambda *a: pytest.fail("trained again"))
    monkeypatch.setattr("semantic_routing.evaluation.sampling.load_pipeline", lambda *a: pytest.fail("sampled again"))
    run_ablation(cells, OPTIONS)


def test_losses_are_compared_at_equal_steps_of_equal_seeds(tmp_path):
    config = load_config("ablation/smoke", [])
    runs = {"uniform": [[9.0, 3.0, 1.0], [9.0, 5.0, 1.0]], "joint": [[9.0, 2.9, 0.9], [9.0, 4.9, 0.9, 7.0]]}
    by_label = {}
    for label, losses in runs.items():
        by_label[label] = [Cell(label, seed, tmp_path / label / str(seed), config) for seed in (0, 1)]
        for cell, values in zip(by_label[label], losses, strict=True):
            cell.run.mkdir(parents=True)
            lines = [json.dumps({"step": step, "loss": value * 1e-4}) for step, value in enumerate(values, 1)]
            (cell.run / "metrics.jsonl").write_text("\n".join(lines))
    rows = loss_table(by_label).rows
    # The last fifth of the steps that all have logged is step 3, where seeds do not differ.
    space = "\N{NO-BREAK SPACE}"
    assert rows[0] == ["uniform", f"1.0 [1.0,{space}1.0]", ""]
    assert rows[1] == ["joint", f"0.9 [0.9,{space}0.9]", f"-0.1 [-0.1,{space}-0.1]{space}*"]


def test_only_the_skills_that_are_named_are_sampled_and_told(config, tmp_path):
    out = tmp_path / "ablation"
    cells = cells_of(config, out, seeds=[0])
    options = replace(OPTIONS, skills=("single_object", "colors"))
    run_ablation(cells, options)
    write_ablation(cells, options, out)
    assert [row.split(",")[0] for row in (out / "table-2.csv").read_text().splitlines()[1:]] == [
        "single_object",
        "colors",
    ]
    header, uniform, joint = (row.split(",") for row in (out / "table-1.csv").read_text().splitlines())
    assert [header[0], *header[-4:]] == ["strategy", "overall", "trained", "held-out", "− uniform"]
    assert "advanced" not in header
    assert not uniform[-1]
    assert joint[-1]
    with pytest.raises(ValueError, match="Skill is 'flying'"):
        replace(OPTIONS, skills=("flying",)).prompts()


def test_strategies_share_data_order_and_differ_in_nothing_but_the_strategy(config, tmp_path):
    cells = cells_of(config, tmp_path)
    by_label = {(cell.label, cell.seed): cell.config for cell in cells}
    uniform, joint = by_label["uniform", 1], by_label["joint", 1]
    assert uniform.training.seed == joint.training.seed == 1
    assert uniform.model.model_dump(exclude={"strategy"}) == joint.model.model_dump(exclude={"strategy"})
    assert uniform.data == joint.data


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategies": ["unifrom"]}, "unifrom"),
        ({"strategies": []}, "at least one strategy"),
        ({"seeds": [0, 0]}, "twice"),
    ],
)
def test_mistakes_are_named_before_any_work(config, tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        cells_of(config, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_config_is_refused(config, tmp_path):
    cells = cells_of(config, tmp_path)
    cells[0].run.mkdir(parents=True)
    (cells[0].run / "config.yaml").write_text(cells[0].config.to_yaml())
    cells_of(config, tmp_path)
    with pytest.raises(ValueError, match="another config"):
        cells_of(config, tmp_path, overrides=["training.steps=5"])


def result_of(values):
    tally = Tally(len(values))
    for key, value in enumerate(values):
        tally.add({str(key): float(value)})
    keys = tuple(map(str, range(len(values))))
    return summarize("scenes", tally, [Measure("overall", (keys,))], {}, "")


def test_intervals_hold_what_seeds_and_prompts_leave_open():
    random = np.random.default_rng(0)
    easy = random.random(200)
    # Two strategies whose runs share the prompts' difficulty and differ by 0.1.
    first = [result_of(easy) for _ in range(3)]
    better = [result_of(easy + 0.1 + 0.01 * random.standard_normal(200)) for _ in range(3)]
    measure = first[0].measures[0]
    apart = difference(better, first, measure)
    assert apart.beyond_noise
    assert apart.low < 0.1 < apart.high
    assert apart.high - apart.low < 0.01, "pairing takes the prompts' difficulty out"
    assert over_runs(first, measure).high - over_runs(first, measure).low > 0.05
    # Seeds that disagree widen the interval, however many prompts agree.
    shaky = [result_of(easy + shift) for shift in (-0.2, 0.0, 0.2)]
    wide = difference(shaky, first, measure)
    assert wide.high - wide.low > 0.2
    assert not wide.beyond_noise


def test_the_interval_covers_the_truth_as_often_as_it_says():
    from semantic_routing.reporting.intervals import estimate

    random = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        outcome = estimate([random.random(60) < 0.3, random.random(60) < 0.7])
        hits += outcome.low <= 0.5 <= outcome.high
    assert 0.88 <= hits / 100 < 1
