"""Comparisons of sides with one run or several."""

import csv
import json

import numpy as np
import pytest

from semantic_routing.evaluation.compare import compare
from semantic_routing.evaluation.result import Measure, Tally, summarize

SKILLS = ("colors", "counting")


@pytest.fixture
def write(tmp_path):
    """Writes a run of a benchmark of two skills, each prompt's score given."""

    def write(name, values, **settings):
        tally = Tally(values.size)
        for key, value in enumerate(values.ravel()):
            tally.add({str(key): float(value)})
        keys = [tuple(str(key) for key in row) for row in np.arange(values.size).reshape(values.shape)]
        measures = [Measure(skill, (own,)) for skill, own in zip(SKILLS, keys, strict=True)]
        measures.append(Measure("overall", tuple(keys)))
        summarize("scenes", tally, measures, settings, "Share.").write(tmp_path / name)
        return tmp_path / name

    return write


def runs(write, name, base, shifts, random):
    """Runs whose images are right with the prompts' probability, shifted."""
    found = []
    for number, shift in enumerate(shifts):
        values = random.random(base.shape) < np.clip(base + shift, 0, 1)
        found.append(write(f"{name}/seed-{number}/scenes", values))
    return found


def test_a_difference_that_seeds_agree_on_is_told(write):
    random = np.random.default_rng(0)
    base = random.uniform(0.2, 0.5, (2, 300))
    first = runs(write, "base", base, (0, 0, 0, 0), random)
    better = runs(write, "better", base, (0.3, 0.3, 0.3, 0.3), random)
    shaky = runs(write, "shaky", base, (-0.2, 0.0, 0.2, 0.4), random)
    found = compare([first, better, shaky])
    assert [side.name for side in found.sides] == ["base", "better", "shaky"]
    entries = {(entry.side, entry.name): entry for entry in found.differences}
    assert [place for place, entry in entries.items() if entry.primary] == [("better", "overall")]
    overall = entries["better", "overall"]
    assert overall.verdict == "better"
    assert overall.low < 0.3 < overall.high
    assert overall.prompts == 600
    assert not entries["shaky", "overall"].beyond_noise
    assert entries["shaky", "overall"].verdict.startswith("no difference larger than 0.")
    assert "4 runs a side; the prompts are fixed" in found.remarks
    # One of the shaky runs alone would have passed for a difference.
    alone = compare([[first[3]], [shaky[3]]])
    assert alone.differences[-1].verdict == "better"
    assert alone.remarks[0].startswith("One run a side: this is about these checkpoints")


def test_runs_are_paired_by_their_place(write):
    random = np.random.default_rng(3)
    base = random.uniform(0.3, 0.5, (2, 300))
    shifts = np.array([-0.2, -0.1, 0.1, 0.2])  # of the seeds, the same for both sides
    first, other = runs(write, "base", base, shifts, random), runs(write, "other", base, shifts + 0.2, random)
    assert compare([first, other]).differences[-1].verdict == "better"
    assert compare([first, other[::-1]]).differences[-1].verdict.startswith("no difference")


def test_all_but_the_primary_contrast_are_corrected(write):
    random = np.random.default_rng(1)
    base = random.uniform(0.3, 0.7, (2, 200))
    first = runs(write, "base", base, (0,), random)
    others = [runs(write, f"other-{number}", base, (0.06,), random) for number in range(4)]
    few, many = compare([first, others[0]]), compare([first, *others])
    alike = [(entry.name, entry.low) for entry in few.differences]
    assert alike == [(entry.name, entry.low) for entry in many.differences[:3]], "intervals are not corrected"
    for small, large in zip(few.differences, many.differences, strict=False):
        assert (small.p_value == large.p_value) if small.primary else (small.p_value <= large.p_value)
    assert any(small.p_value < large.p_value for small, large in zip(few.differences, many.differences, strict=False))
    assert "Holm's correction for 11 contrasts" in many.caption()


def test_equal_runs_differ_by_nothing_but_not_for_certain(write):
    values = np.zeros((2, 40))
    found = compare([[write("a", values)], [write("b", values)]])
    entry = found.differences[-1]
    assert (entry.difference, entry.p_value) == (0, 1)
    assert entry.verdict == f"no difference larger than {entry.high:.3f}"
    assert 0.02 < entry.high < 0.06


def test_what_is_written_and_shown(write, tmp_path):
    random = np.random.default_rng(2)
    first, other = random.random((2, 30)) < 0.5, random.random((2, 30)) < 0.5
    found = compare([[write("a", first, question="Is it {}?")], [write("b", other[:, :29], question="Is this {}?")]])
    assert "b and a: 2 prompts are scored in only one of them" in found.remarks
    assert "b differs from a in question" in found.remarks
    found.write(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["sides"] == {"a": 1, "b": 1}
    lines = list(csv.DictReader((tmp_path / "out" / "comparison.csv").read_text().splitlines()))
    assert [line["name"] for line in lines] == [*SKILLS, "overall"]
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert table.startswith("One run a side")
    assert f"| overall | {first.mean():.3f} [" in table


def test_mistakes(write, tmp_path):
    run = write("a", np.ones((2, 3)))
    with pytest.raises(ValueError, match="two sides or more, not 1"):
        compare([[run]])
    with pytest.raises(ValueError, match=r"equally many runs, which are paired; they have \[1, 2\]"):
        compare([[run], [run, run]])
    with pytest.raises(ValueError, match=r"no result\.json"):
        compare([[run], [tmp_path / "gone"]])


def test_the_page_sorts_and_tells_differences_of_protocol(write, tmp_path):
    random = np.random.default_rng(4)
    base = random.uniform(0.3, 0.5, (2, 60))
    judges = [{"model": name, "template": "{}?", "check": {"accuracy": {}}, "reported": []} for name in ("a", "b")]
    sides = [[write(f"run-{number}", base + 0.1 * number, judge=judges[number % 2])] for number in range(4)]
    found = compare(sides)
    assert "run-1 differs from run-0 in judge's model" in found.remarks
    assert not any(remark.startswith("run-2 differs") for remark in found.remarks)
    found.write(tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count('class="sortable"') == 2
    assert "title.onclick" in page
    assert "http" not in page, "nothing is fetched from anywhere"
    assert "run-1 differs from run-0 in judge&#39;s model" in page
    assert page.count("<tr>") == 2 + 4 + len(found.differences)


def test_no_difference_is_larger_than_scores_can_differ(write):
    same = np.array([[0.5, 0.5], [0.5, 0.5]])
    found = compare([[write("one", same)], [write("other", same)]])
    assert [(entry.low, entry.high) for entry in found.differences[:2]] == [(-1.0, 1.0)] * 2
    assert found.differences[0].verdict == "no difference larger than 1.000"


def test_less_of_a_loss_is_better(tmp_path):
    for name, level in (("one", 5.0), ("other", 3.0)):
        tally = Tally(20)
        for key in range(20):
            tally.add({f"{key}/{part}": level + key % 3 / 10 * (level > 4) for part in ("cost", "heard")})
        measures = [
            Measure("overall", (tuple(f"{key}/{part}" for key in range(20)),), part, (), part == "cost")
            for part in ("cost", "heard")
        ]
        summarize("information", tally, measures, {}, "Nats.", bounds=None).write(tmp_path / name)
    found = compare([[tmp_path / "one"], [tmp_path / "other"]])
    assert [entry.verdict for entry in found.differences] == ["better", "worse"]
