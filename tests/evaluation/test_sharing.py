"""Judging shared by processes: each image is judged once, by one of them, and nothing is lost by an interruption."""

import threading
from types import SimpleNamespace

import pytest
from PIL import Image

from semantic_routing.evaluation import sharing
from semantic_routing.evaluation.benchmark import BENCHMARKS, DetectorBenchmark
from semantic_routing.evaluation.image_files import FlatFolder
from semantic_routing.evaluation.result import Measure
from semantic_routing.evaluation.runner import score
from semantic_routing.io.jsonl import Ledger, read_lines

COUNT = 7


class Slow(DetectorBenchmark):
    """Slow: verdicts that are kept."""

    unit = "Nothing."
    ledger = "ledger.jsonl"

    def __init__(self):
        super().__init__({n: f"p {n}" for n in range(COUNT)}, FlatFolder({n: str(n) for n in range(COUNT)}))
        self.judged = []

    def judge(self, image, prompt):
        self.judged.append((threading.current_thread().name, prompt))
        return {"red": image.getpixel((0, 0))[0]}

    def scores(self, found):
        return {"": found["red"] / 255}

    def measures(self):
        return [Measure("overall", (tuple(map(str, range(COUNT))),))]


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Runs `judge_share` in as many threads as there are processes."""
    monkeypatch.setattr(BENCHMARKS, "_items", {**BENCHMARKS, "slow": Slow})
    (tmp_path / "images").mkdir()
    for n in range(COUNT):
        Image.new("RGB", (4, 4), (30 * n, 0, 0)).save(tmp_path / "images" / f"{n}.png")

    def run(benchmark, count):
        barrier = threading.Barrier(count)

        def state():
            index = int(threading.current_thread().name)
            return SimpleNamespace(
                num_processes=count, process_index=index, is_main_process=index == 0, wait_for_everyone=barrier.wait
            )

        monkeypatch.setattr(sharing, "processes", state)
        threads = [
            threading.Thread(target=sharing.judge_share, args=(benchmark, tmp_path, None, 1), name=str(index))
            for index in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def test_each_image_is_judged_once_by_one_of_them(shared, tmp_path):
    benchmark = Slow()
    shared(benchmark, 3)
    assert sorted(prompt for _, prompt in benchmark.judged) == list(range(COUNT))
    assert {name for name, _ in benchmark.judged} == {"0", "1", "2"}
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["ledger.jsonl"]
    result = score(benchmark, tmp_path, images_per_prompt=1)
    assert len(benchmark.judged) == COUNT, "scoring found all verdicts"
    assert result.values["3"] == pytest.approx(90 / 255)


def test_what_an_interrupted_process_judged_is_kept(shared, tmp_path):
    first = Slow()
    shared(first, 2)
    entries = read_lines(tmp_path / "ledger.jsonl")
    (tmp_path / "ledger.jsonl").unlink()
    part = Ledger(tmp_path / "ledger-part-1.jsonl")
    for entry in entries[:4]:
        part.add(entry.pop("key"), entry)
    again = Slow()
    shared(again, 2)
    assert len(again.judged) == COUNT - 4


def test_one_process_leaves_the_work_to_scoring(shared):
    benchmark = Slow()
    shared(benchmark, 1)
    assert benchmark.judged == []
