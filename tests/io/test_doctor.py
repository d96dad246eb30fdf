"""What the doctor finds: a healthy machine, and each thing that can be missing."""

import shutil
from collections import namedtuple
from importlib.metadata import PackageNotFoundError

import pytest

from semantic_routing.io import doctor

Disk = namedtuple("Disk", "total used free")


def states(checks: list[doctor.Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_machine_that_runs_these_tests_has_no_problem() -> None:
    checks = doctor.examine()
    assert [check for check in checks if check.state == "problem"] == []
    assert {"python", "torch", "cpu", "attention", "compiler", "hub", "disk, here", "demo model"} <= states(
        checks
    ).keys()
    (hub,) = [check for check in checks if check.name == "hub"]
    assert (hub.state, hub.found) == ("note", "off")  # the tests are offline


def test_missing_and_old_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"diffusers": "0.1.0"}

    def version(name: str) -> str:
        if name in ("torch", "gguf"):
            raise PackageNotFoundError(name)
        return versions.get(name, "999")

    monkeypatch.setattr(doctor, "version", version)
    found = {check.name: check for check in doctor.examine()}
    assert (found["torch"].state, found["torch"].found) == ("problem", "not installed")
    assert found["torch"].advice == "pip install torch"
    assert found["diffusers"].state == "problem"
    assert ">=0.42" in found["diffusers"].advice
    assert found["gguf"].state == "note"
    assert "semantic-routing[llm]" in found["gguf"].advice
    assert "cpu" not in found


@pytest.mark.parametrize(("gib", "state"), [(0.5, "problem"), (5, "note"), (50, "ok")])
def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch, gib: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Disk(0, 0, gib * 2**30))
    assert states(doctor.examine())["disk, here"] == state


def test_an_answer_of_the_hub_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import huggingface_hub.constants

    class Session:
        def head(self, url: str, timeout: float) -> object:
            if not answers:
                raise ConnectionError("no route")
            return type("Answer", (), {"status_code": answers.pop()})

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    answers = [503, 200]
    assert [doctor._hub().state for _ in range(3)] == ["ok", "note", "note"]
