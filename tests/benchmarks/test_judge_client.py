"""The judge client's benchmark, small: all answered, none twice, resumed after a kill."""

from benchmarks.judge_client import run


def test_all_are_answered_and_none_twice(tmp_path):
    found = run(questions=300, workers=32, failing=0.1, folder=tmp_path / "run")
    assert found["answered in the end"] == found["verdicts"] == 300
    assert found["verdicts written twice"] == 0
    assert found["answered twice"] <= found["of which on their way at the kill"] <= 32
    assert 0 < found["kept of them"] < 300
    assert found["remark"] == "30 of 30 images scored"
