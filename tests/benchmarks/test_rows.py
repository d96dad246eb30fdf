"""Rows are measured in bounded time and named where they are missing; what is freed is kept while they run."""

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as rows
from benchmarks.common import alternate


class Row:
    """In place of a row's process: writes what it measured, fails, or takes too long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured: list[str] = []
        self.returncode, self.late = 0, ""
        monkeypatch.setattr(subprocess, "run", self)

    def __call__(self, command: list[str], timeout: float) -> "Row":
        name, folder = command[2].removeprefix("benchmarks."), Path(command[4])
        if name == self.late:
            raise subprocess.TimeoutExpired(command, timeout)
        self.measured.append(name)
        machine = {"device": "cpu", "processor": "", "threads": 1, "cores": 1, "type": "float32", "load": 0.0}
        machine |= {"matrix_flops_per_second": 1.0, "bytes_per_second": 1.0, "versions": {"torch": "2"}}
        report: dict[str, Any] = {"command": " ".join(["python", *command[1:]]), "machine": machine}
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({**report, "rows": [], "sizes": "", "notes": []}))
        return self


def test_only_a_run_that_was_ended_keeps_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, both = Row(monkeypatch), ["fusion", "one_image"]
    rows.main(quick=True, row=both[:1], out=tmp_path)
    rows.main(quick=True, row=both, out=tmp_path)
    assert process.measured == both  # each once
    rows.main(quick=True, row=both, out=tmp_path)  # all were there
    assert process.measured == both * 2
    rows.main(quick=False, row=both, out=tmp_path)  # other sizes
    assert process.measured == both * 3


def test_a_row_that_takes_too_long_is_named_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = Row(monkeypatch)
    process.late = "fusion"
    with pytest.raises(SystemExit):
        rows.main(row=["fusion", "one_image"], minutes=2, out=tmp_path)
    assert process.measured == ["one_image"]
    assert "more than 2 minutes: fusion" in capsys.readouterr().err


def test_every_row_has_its_quick_sizes() -> None:
    assert set(rows.QUICK) == set(rows.ROWS)


def test_no_side_waits_for_memory_that_was_freed() -> None:
    faults: list[int] = []

    def work() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(2**21) for _ in range(20)]  # 160 MiB, freed at the end
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    alternate({"one": work}, 2, torch.device("cpu"))
    assert faults[-1] < faults[0] / 10
