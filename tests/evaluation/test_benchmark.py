"""A benchmark of a user's own is a command as ours are, and nothing but what it scores is its own."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from semantic_routing.cli import app
from semantic_routing.evaluation import BENCHMARKS, GenAIBench, agreement, runner
from semantic_routing.evaluation.benchmark import DetectorBenchmark
from semantic_routing.evaluation.image_files import FlatFolder
from semantic_routing.evaluation.judges.endpoint import EndpointJudge
from semantic_routing.evaluation.result import Measure, read_result
from semantic_routing.evaluation.runner import score
from semantic_routing.io.jsonl import read_lines
from semantic_routing.io.user_code import import_user_code

DOCS = Path(__file__).parents[2] / "docs" / "evaluating.md"


@pytest.fixture
def registered(monkeypatch):
    """Undoes what a test registers."""
    monkeypatch.setattr(BENCHMARKS, "_items", dict(BENCHMARKS))


def sroute(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def test_the_example_of_the_docs_is_a_command(registered, tmp_path, monkeypatch):
    code = next(text for text in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "bright.py" in text)
    (tmp_path / "bright.py").write_text(code)
    assert "bright" not in sroute("evaluate", "--help").output
    import_user_code(["bright.py"], tmp_path)
    assert "pictures of snow" in sroute("evaluate", "--help").output
    assert "--threshold" in sroute("evaluate", "bright", "--help").output
    (tmp_path / "images").mkdir()
    for index, gray in enumerate((150, 100)):
        Image.new("L", (8, 8), gray).save(tmp_path / "images" / f"{index}_sample_0.png")
    arguments = ("evaluate", "bright", "score", "--out", tmp_path, "--images-per-prompt", 1)
    assert sroute(*arguments).exit_code == 0
    assert read_result(tmp_path).values == {"0": 1, "1": 0}
    assert sroute(*arguments, "--threshold", 90).exit_code == 0
    assert read_result(tmp_path).values == {"0": 1, "1": 1}
    (tmp_path / "images" / "1_sample_0.png").unlink()
    assert sroute(*arguments).exit_code == 1
    assert sroute(*arguments, "--partial").exit_code == 0


def test_options_reach_sampling_and_scoring(registered, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(runner, "sample", lambda benchmark, sampler, out: seen.update(sampler=sampler))

    def score_by_all(benchmark, *rest):
        seen.update(benchmark=benchmark, rest=rest)
        return [Done()]

    monkeypatch.setattr(agreement, "score_by_all", score_by_all)
    monkeypatch.setattr(EndpointJudge, "try_out", lambda judge, form: seen.update(tried=judge.client.url))

    class Done:
        complete = True

        def table(self):
            return self

        def print(self):
            pass

    (tmp_path / "p.json").write_text('{"3": {"prompt": "a cat"}}')
    result = sroute(
        *("evaluate", "genai-bench", "--prompts", tmp_path / "p.json", "--out", tmp_path / "out", "--steps", 7),
        *("--guidance", 1.5, "--images-per-prompt", 3, "--size", 64, "--same-noise", "--dtype", "bfloat16"),
        *("--judge-model", "m", "--judge-url", "http://x/v1", "--workers", 5, "--text-first", "--device", "cpu"),
        *("--score", "exact_yes", "--images", tmp_path, "--partial"),
    )
    assert result.exit_code == 0, result.output
    sampler, benchmark = seen["sampler"], seen["benchmark"]
    assert (sampler.steps, sampler.guidance, sampler.images_per_prompt, sampler.size) == (7, 1.5, 3, 64)
    assert (sampler.same_noise, sampler.dtype, sampler.device, sampler.seed) == (True, "bfloat16", "cpu", 42)
    assert isinstance(benchmark, GenAIBench)
    options = benchmark.options
    assert (options.model, options.url, options.workers, options.device) == ("m", "http://x/v1", 5, "cpu")
    assert (benchmark.kind, benchmark.form.image_first, options.retries) == ("exact_yes", False, 5)
    assert seen["tried"] == "http://x/v1"
    assert seen["rest"] == (tmp_path / "out", tmp_path, 3, True)


@pytest.mark.parametrize(("name", "images", "batch"), [("scenes", 4, 64), ("geneval", 4, 16), ("drawbench", 1, 16)])
def test_defaults_are_the_benchmarks_own(name, images, batch):
    sampler = BENCHMARKS[name].sampler
    assert (sampler.images_per_prompt, sampler.batch_size) == (images, batch)
    text = sroute("evaluate", name, "--help").output
    assert re.search(rf"--images-per-prompt.*default: {images}\b", text)
    assert re.search(rf"--batch-size.*default: {batch}\b", text)


def test_a_missing_judge_is_told_before_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "sample", lambda *args: pytest.fail("sampled"))
    (tmp_path / "p.json").write_text('{"3": {"prompt": "a cat"}}')
    result = sroute("evaluate", "genai-bench", "--prompts", tmp_path / "p.json", "--out", tmp_path)
    assert "Scoring needs a judge" in str(result.exception)


def test_equal_images_of_a_prompt_are_judged_once_and_verdicts_are_kept(registered, tmp_path):
    asked = []

    @BENCHMARKS.register("count")
    class Count(DetectorBenchmark):
        """Count: what is asked."""

        unit = "Nothing."
        ledger = "ledger.jsonl"

        def judge(self, image, prompt):
            asked.append(prompt)
            return {"red": image.getpixel((0, 0))[0]}

        def scores(self, found):
            return None if found["red"] == 7 else {"": found["red"] / 255}

        def measures(self):
            return [Measure("overall", (("0", "1"),))]

    benchmark = Count({0: "a", 1: "b"}, FlatFolder({0: "0", 1: "1"}))
    (tmp_path / "images").mkdir()
    for name, red in {"0_sample_0": 10, "0_sample_1": 10, "0_sample_2": 20, "1_sample_0": 10, "1_sample_1": 7}.items():
        Image.new("RGB", (4, 4), (red, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "1_sample_2.png").write_bytes(b"no image")
    result = score(benchmark, tmp_path, images_per_prompt=3, partial=True)
    assert sorted(asked) == [0, 0, 1, 1]
    assert {kind: len(names) for kind, names in result.problems.items()} == {
        "unresolved judgments": 1,
        "unreadable images": 1,
    }
    assert result.values == {"0": pytest.approx(np.mean([10, 10, 20]) / 255), "1": pytest.approx(10 / 255)}
    assert len(read_lines(tmp_path / "results.jsonl")) == 6
    asked.clear()
    Image.new("RGB", (4, 4), (30, 0, 0)).save(tmp_path / "images" / "1_sample_2.png")
    again = score(benchmark, tmp_path, images_per_prompt=3, partial=True)
    assert asked == [1], "only what has no verdict yet is judged"
    assert again.values["0"] == result.values["0"]


def test_importing_the_benchmarks_does_not_import_torch():
    import subprocess
    import sys

    code = "import semantic_routing.evaluation, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
