"""A short search for faults finds none, and the search can find some."""

from pathlib import Path

import numpy as np

from benchmarks.fault_inputs import Case, InputReport, _end_of
from benchmarks.fault_kills import Job, KillReport, interrupt
from benchmarks.faults import parts


def test_a_short_search_finds_no_fault(tmp_path: Path) -> None:
    reports = [part.work() for part in parts(tmp_path, kills=2, inputs=31, seed=0)]
    assert [report.kills for report in reports if isinstance(report, KillReport)] == [2]
    assert sum(sum(report.ends.values()) for report in reports if isinstance(report, InputReport)) == 31
    assert [report.faults for report in reports] == [[]] * 9


def test_a_job_that_loses_work_is_found(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        """Numbers that another start would count twice."""
        for _ in range(200):
            with (folder / "numbers").open("a") as file:
                file.write("1\n")
                file.flush()
                np.linalg.eig(np.ones((20, 20)))

    def contents(folder: Path) -> dict[str, str]:
        return {"numbers": (folder / "numbers").read_text()}

    job = Job("counting", work, contents, lambda folder, wanted: iter(()))
    assert interrupt(job, tmp_path, 20, np.random.default_rng(0)).faults


def test_every_end_of_an_input_has_its_name() -> None:
    def fail(error: Exception) -> Case:
        def read() -> None:
            raise error

        return Case("damaged", read)

    assert _end_of(fail(ValueError("wrong")))[0] == "refused"
    assert _end_of(fail(ValueError("x" * 10_000)))[0] == "no sentence"
    assert _end_of(fail(KeyError("x")))[0] == "traceback"
    assert _end_of(Case("damaged", lambda: None))[0] == "read"
    assert _end_of(Case("damaged", lambda: None, must_refuse=True))[0] == "accepted silently"
