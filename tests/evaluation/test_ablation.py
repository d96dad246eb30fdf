"""An ablation end to end at a budget of a few steps, and the arithmetic of its tables."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

from semantic_routing.evaluation.result import Measure, Tally, summarize
from semantic_routing.experiments import ablation
from semantic_routing.experiments.ablation import (
    AblationOptions,
    Trial,
    choose_guidance,
    default_strategies,
    make_trials,
    primary_of,
    run_ablation,
)
from semantic_routing.experiments.ablation_cost import cost_table, match_parameters
from semantic_routing.experiments.ablation_page import loss_table, main_table, write_ablation
from semantic_routing.fusion import FUSIONS
from semantic_routing.io.messages import StoppedError
from semantic_routing.io.user_code import import_user_code
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


def trials_of(config, out, **changes):
    names = {"strategies": ["uniform", "joint"], "seeds": [0, 1], **changes}
    return make_trials(str(config), changes.get("overrides", []), names["strategies"], names["seeds"], out)


def test_from_a_config_to_the_page(config, tmp_path, monkeypatch):
    out = tmp_path / "ablation"
    trials = trials_of(config, out, seeds=[0])
    run_ablation(trials, OPTIONS)
    # As if the second run had been interrupted half-way.
    half = list_checkpoints(trials[1].run)
    assert [checkpoint_step(path) for path in half] == [2, 4]
    shutil.rmtree(half[1])
    shutil.rmtree(trials[1].pipeline)
    shutil.rmtree(trials[1].folder / "scenes")
    stamp = (trials[0].run / "metrics.jsonl").stat().st_mtime_ns
    run_ablation(trials, OPTIONS)
    assert (trials[0].run / "metrics.jsonl").stat().st_mtime_ns == stamp, "a finished run was run again"
    page = write_ablation(trials, OPTIONS, out).read_text()
    for heading in ("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Learning curves", "Samples"):
        assert heading in page
    assert page.count("<img") == 1 + 8 * 2
    rows = (out / "table-1.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["strategy", "uniform", "joint"]
    assert (out / "table-3.csv").read_text().splitlines()[1].startswith("joint,")
    first, second = csv.reader((out / "table-5.csv").read_text().splitlines()[1:])
    assert (first[0], first[-1], second[0]) == ("uniform", "", "joint")
    assert second[-1].startswith(("better", "worse", "no difference larger than"))
    scores = json.loads((out / "scores.json").read_text())
    assert [len(values) for label in scores for values in scores[label]] == [30, 30]
    monkeypatch.setattr("semantic_routing.experiments.ablation.train", lambda *a: pytest.fail("trained again"))
    monkeypatch.setattr("semantic_routing.evaluation.sampling.load_pipeline", lambda *a: pytest.fail("sampled again"))
    run_ablation(trials, OPTIONS)


def test_losses_are_compared_at_equal_steps_of_equal_seeds(tmp_path):
    config = load_config("ablation/smoke", [])
    runs = {"uniform": [[9.0, 3.0, 1.0], [9.0, 5.0, 1.0]], "joint": [[9.0, 2.9, 0.9], [9.0, 4.9, 0.7, 7.0]]}
    by_label = {}
    for label, losses in runs.items():
        by_label[label] = [Trial(label, seed, tmp_path / label / str(seed), config) for seed in (0, 1)]
        for trial, values in zip(by_label[label], losses, strict=True):
            trial.run.mkdir(parents=True)
            lines = [json.dumps({"step": step, "loss": value * 1e-4}) for step, value in enumerate(values, 1)]
            (trial.run / "metrics.jsonl").write_text("\n".join(lines))
    rows = loss_table(by_label, "joint").rows
    # The last fifth of the steps that all have logged is step 3: -0.1 and -0.3, with one degree of freedom.
    space = "\N{NO-BREAK SPACE}"
    assert rows[0] == ["uniform", "1.0", "", ""]
    assert rows[1][:2] == ["joint", "0.8"]
    assert rows[1][2] == f"-0.2 [-1.5,{space}+1.1]"
    assert rows[1][3] == "no difference larger than 1.5"


def test_only_the_skills_that_are_named_are_sampled_and_told(config, tmp_path):
    out = tmp_path / "ablation"
    trials = trials_of(config, out, seeds=[0])
    options = replace(OPTIONS, skills=("single_object", "colors"))
    run_ablation(trials, options)
    write_ablation(trials, options, out)
    assert [row.split(",")[0] for row in (out / "table-2.csv").read_text().splitlines()[1:]] == [
        "single_object",
        "colors",
    ]
    header, uniform, joint = csv.reader((out / "table-1.csv").read_text().splitlines())
    assert header == ["strategy", "overall", "trained", "held-out", "spread", "− uniform", "verdict"]
    assert not uniform[-1]
    assert joint[-1]
    with pytest.raises(ValueError, match="Skill is 'flying'"):
        replace(OPTIONS, skills=("flying",)).benchmark()


def test_strategies_share_data_order_and_differ_in_nothing_but_the_strategy(config, tmp_path):
    trials = trials_of(config, tmp_path)
    by_label = {(trial.label, trial.seed): trial.config for trial in trials}
    uniform, joint = by_label["uniform", 1], by_label["joint", 1]
    assert uniform.training.seed == joint.training.seed == 1
    assert uniform.model.model_dump(exclude={"strategy"}) == joint.model.model_dump(exclude={"strategy"})
    assert uniform.data == joint.data


def test_matched_strategies_have_as_many_parameters_as_the_largest(config, tmp_path):
    strategies = ["concat", "uniform", "joint", "token-wise"]
    trials = make_trials(str(config), [], strategies, [0, 1], tmp_path, match_parameters)
    by_label = {trial.label: [trial] for trial in trials if trial.seed == 0}
    for trial in trials:
        assert trial.config.model == by_label[trial.label][0].config.model, "seeds of a strategy differ"
        trial.run.mkdir(parents=True)
        (trial.run / "metrics.jsonl").write_text('{"images_per_second": 7}\n')
        (trial.run / "config.yaml").write_text(trial.config.to_yaml())
    rows = cost_table(by_label, OPTIONS).rows
    matched = [float(row[1].split()[0]) for row in rows]
    plain = make_trials(str(config), [], strategies, [0, 1], tmp_path / "plain")
    for trial in plain:
        trial.run.mkdir(parents=True)
        (trial.run / "metrics.jsonl").write_text('{"images_per_second": 7}\n')
    alone = [float(row[1].split()[0]) for row in cost_table({t.label: [t] for t in plain}, OPTIONS).rows]
    assert max(alone) > 1.05 * min(alone)
    assert max(matched) == max(alone)
    assert min(matched) > 0.995 * max(matched)
    again = make_trials(str(config), [], strategies, [0, 1], tmp_path, match_parameters)
    assert [trial.config for trial in again] == [trial.config for trial in trials], "a second run does not go on"


def test_a_model_without_a_fusion_cannot_be_matched(config, tmp_path):
    trials = trials_of(config, tmp_path, seeds=[0])
    model = trials[1].config.model.model_copy(update={"kind": "fusedit", "strategy": None})
    trials[1] = replace(trials[1], config=trials[1].config.model_copy(update={"model": model}))
    with pytest.raises(ValueError, match="joint has no fusion: leave it out"):
        match_parameters(trials)


def test_the_cost_of_a_step_and_of_a_prompt_stand_apart(config, tmp_path):
    trials = trials_of(
        config, tmp_path, seeds=[0], strategies=["penultimate", "depth-wise", "joint", "layer-attention"]
    )
    for trial in trials:
        trial.run.mkdir(parents=True)
        (trial.run / "metrics.jsonl").write_text('{"images_per_second": 7}\n')
    table = cost_table({trial.label: [trial] for trial in trials}, OPTIONS)
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    prompt, step, memory = (
        [float(cell.split()[0]) for cell in columns[name]] for name in ("FLOPs a prompt", "FLOPs a step", "memory")
    )
    assert step[0] == step[1] == step[3] < step[2]
    assert prompt[2] == 0 < prompt[0] < prompt[1] < prompt[3]
    assert memory[3] > memory[0] > 0


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
        trials_of(config, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_config_is_refused(config, tmp_path):
    trials = trials_of(config, tmp_path)
    trials[0].run.mkdir(parents=True)
    (trials[0].run / "config.yaml").write_text(trials[0].config.to_yaml())
    trials_of(config, tmp_path)
    with pytest.raises(ValueError, match="another config"):
        trials_of(config, tmp_path, overrides=["training.steps=5"])


def result_of(values):
    tally = Tally(len(values))
    for key, value in enumerate(values):
        tally.add({str(key): float(value)})
    keys = tuple(map(str, range(len(values))))
    return summarize("scenes", tally, [Measure("overall", (keys,))], {}, "")


def test_only_what_seeds_agree_on_is_told_from_noise():
    random = np.random.default_rng(0)
    easy = random.random(200)
    # Runs share the prompts' difficulty; seeds add a little noise to each prompt, or much to all of them.
    results = {
        "first": [result_of(easy) for _ in range(3)],
        "better": [result_of(easy + 0.1 + 0.01 * random.standard_normal(200)) for _ in range(3)],
        "shaky": [result_of(easy + shift) for shift in (-0.1, 0.1, 0.3)],
        "worse": [result_of(easy - 0.1 + 0.01 * random.standard_normal(200)) for _ in range(3)],
    }
    table = main_table(results, "better")
    verdicts = {row[0]: row[-1] for row in table.rows}
    assert verdicts == {"first": "", "better": "better", "shaky": "no difference larger than 59.7", "worse": "worse"}
    assert {row[0]: row[-3] for row in table.rows}["shaky"] == "20.0", "the spread between seeds"
    assert "better, the primary contrast" in table.caption


def test_the_primary_contrast_is_one_of_the_strategies():
    assert primary_of(["penultimate", "depth-wise", "joint"], AblationOptions()) == "depth-wise"
    assert primary_of(["penultimate", "uniform"], AblationOptions()) == "uniform"
    with pytest.raises(ValueError, match="must be one of uniform, not 'penultimate'"):
        primary_of(["penultimate", "uniform"], AblationOptions(primary="penultimate"))
    assert default_strategies("scenes/joint")[:2] == ["penultimate", "uniform"]


def test_information_and_a_guidance_of_its_own_for_each_model(config, tmp_path):
    out = tmp_path / "ablation"
    trials = trials_of(config, out, seeds=[0])
    options = replace(OPTIONS, skills=("colors",), information=2, guidance=(3.0, 1.0), text_pool=tmp_path / "features")
    run_ablation(trials, options)
    for trial in trials:
        assert sorted(path.name for path in (trial.folder / "guidance").iterdir()) == ["1", "3"]
        chosen = json.loads((trial.folder / "scenes" / "sampling.json").read_text())["guidance"]
        best = {
            float(path.name): np.mean(list(json.loads((path / "result.json").read_text())["values"].values()))
            for path in (trial.folder / "guidance").iterdir()
        }
        assert chosen == min(best, key=lambda scale: (-best[scale], scale))
    write_ablation(trials, options, out)
    titles = [line for line in (out / "tables.md").read_text().splitlines() if line.startswith("## ")]
    assert titles[3:5] == ["## Table 4: cost in nats", "## Table 5: cost in nats, by skill"]
    header, uniform, joint = csv.reader((out / "table-4.csv").read_text().splitlines())
    assert header[:3] == ["strategy", "overall", "log γ -8 to -5"]
    nats = [json.loads((trial.folder / "information" / "result.json").read_text())["rows"] for trial in trials]
    overall = [next(row["score"] for row in rows if row["name"] == "overall") for rows in nats]
    assert uniform[1].startswith(f"{overall[0]:.1f} [")
    assert joint[-2].startswith(f"{overall[1] - overall[0]:+.2f} [")
    only = replace(options, scores=False)
    write_ablation(trials, only, out)
    assert "## Table 1: cost in nats" in (out / "tables.md").read_text()


def test_equal_guidances_give_the_smaller_one(config, tmp_path, monkeypatch):
    trial = trials_of(config, tmp_path)[0]
    equal = result_of([1.0, 0.0])
    monkeypatch.setattr("semantic_routing.experiments.ablation._evaluate", lambda *arguments: equal)
    assert choose_guidance(trial, replace(OPTIONS, guidance=(3.0, 1.5))) == 1.5


def test_processes_of_their_own_know_the_users_fusions(config, tmp_path):
    file = tmp_path / "own_fusion.py"
    file.write_text(
        "from semantic_routing.fusion import FUSIONS\n"
        "from semantic_routing.fusion.routed import Uniform\n\n\n"
        "@FUSIONS.register('own-uniform')\n"
        "class OwnUniform(Uniform):\n"
        "    pass\n"
    )
    import_user_code([str(file)])
    try:
        trials = trials_of(config, tmp_path / "ablation", strategies=["uniform", "own-uniform"], seeds=[0])
        run_ablation(trials, replace(OPTIONS, information=2, scores=False), jobs=2)
    finally:
        FUSIONS._items.pop("own-uniform")
    results = [(trial.folder / "information" / "results.jsonl").read_text() for trial in trials]
    assert results[0] == results[1]


def die(*trial):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_one_sentence(monkeypatch):
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setattr(ablation, "run_trial", die)
    with pytest.raises(StoppedError, match=r"A process that trains died, .* to go on, with fewer"):
        run_ablation([None, None], OPTIONS, jobs=2)
