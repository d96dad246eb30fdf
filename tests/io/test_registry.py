import doctest
import sys
from pathlib import Path

import pytest

from semantic_routing.io import registry
from semantic_routing.io.registry import Registry
from semantic_routing.io.user_code import import_user_code


def test_the_example_runs() -> None:
    results = doctest.testmod(registry)
    assert (results.attempted, results.failed) == (3, 0)


def test_a_registry_is_live_and_names_are_taken_once() -> None:
    shapes: Registry[type] = Registry("shape")
    assert list(shapes) == []
    shapes.register("number")(int)
    assert (list(shapes), shapes["number"], "number" in shapes) == (["number"], int, True)
    with pytest.raises(ValueError, match=r"The shape 'number' is registered already, by builtins\.int"):
        shapes.register("number")(float)
    with pytest.raises(ValueError, match="Unknown shape 'text': expected one of number"):
        shapes.find("text")


def test_a_file_runs_once_under_whatever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs_once.py").write_text("import builtins\nbuiltins.runs = getattr(builtins, 'runs', 0) + 1\n")
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    import_user_code(["runs_once.py", str(tmp_path / "runs_once.py"), "inner/../runs_once.py"])
    import_user_code(["runs_once.py"], tmp_path)
    assert __builtins__["runs"] == 1


def test_a_module_that_fails_half_way_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "fails_half_way.py").write_text("value = 1\nraise RuntimeError('on\\npurpose')\n")
    for _ in range(2):  # the second time it is tried again, and not taken for done
        with pytest.raises(ValueError, match=r"'fails_half_way\.py' cannot be imported: RuntimeError: on purpose"):
            import_user_code(["fails_half_way.py"], tmp_path)
        assert "fails_half_way" not in sys.modules


def test_a_file_must_not_hide_a_module(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ValueError, match="a module called 'json' is loaded already; rename the file"):
        import_user_code(["json.py"], tmp_path)
