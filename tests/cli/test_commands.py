"""What `sroute` says without doing: help, a dry run, and what it costs to say so."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import semantic_routing
from semantic_routing import cli

SROUTE = [sys.executable, "-c", "from semantic_routing.cli import main; main()"]


def sroute(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*SROUTE, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, **options
    )


def write(values: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_dry_run_trains_nothing(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    result = sroute("train", write(tiny_values, tmp_path / "config.yaml"), "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("strategy: joint", "Parameters", "FLOPs", "Memory", "activations"):
        assert word in result.stdout
    assert result.stdout.endswith("The data source scenes has no end.\n")
    assert not Path(tiny_values["training"]["output"]).exists()


def test_a_dry_run_opens_the_data_set(tiny_values: dict[str, Any], image_folder: Path, tmp_path: Path) -> None:
    config = write(tiny_values, tmp_path / "config.yaml")
    result = sroute("train", config, "--dry-run", f"data.source={{source: json, path: {image_folder}}}")
    assert result.stdout.endswith("The data source json has 12 examples.\n"), result.stderr
    result = sroute("train", config, "--dry-run", f"data.source={{source: json, path: {tmp_path / 'gone.json'}}}")
    assert result.returncode == 2
    assert result.stderr.endswith(f"Error: The data set {tmp_path / 'gone.json'} does not exist.\n")
    assert "Parameters" in result.stdout  # what the run costs can be known without the data


def test_help_names_every_command() -> None:
    text = sroute("--help").stdout
    for command in ("quickstart", "train", "export", "generate", "weights"):
        assert command in text


SLOW = ("torch", "diffusers", "transformers", "accelerate", "datasets")
REPORT = f"import sys; print('slow:', sorted({set(SLOW)} & sys.modules.keys()))"


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (None, 0.3),
        (["--help"], 0.7),
        (["--version"], 0.7),
        (["train", "scenes/jiont"], 0.7),
        (["precompute", "gone", "out"], 0.7),
    ],
    ids=["import", "help", "version", "train", "precompute"],
)
def test_starting_is_quick(arguments: list[str] | None, limit: float) -> None:
    code = "import semantic_routing"
    if arguments is not None:
        code = f"import sys; sys.argv = {['sroute', *arguments]}; from semantic_routing.cli import main; main()"
    before = cpu_seconds()
    command = [sys.executable, "-c", f"import atexit; atexit.register(lambda: exec({REPORT!r})); {code}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert cpu_seconds() - before < limit
    assert result.stdout.endswith("slow: []\n"), result.stdout + result.stderr


def imported(code: str) -> set[str]:
    """Modules that are there after a new process has run some code."""
    script = f"import sys; {code}; print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stderr.splitlines()[-1].split())


def test_drawing_weights_imports_no_library_of_models(tmp_path: Path) -> None:
    code = "import pathlib; from semantic_routing.analysis.weights import draw_weights"
    modules = imported(f"{code}; draw_weights('demo', pathlib.Path({str(tmp_path)!r}))")
    assert (tmp_path / "weights.png").is_file()
    assert not modules & {"diffusers", "transformers", "accelerate", "peft", "scipy", "torch._dynamo"}
    assert len(modules) < 1700


def test_generating_imports_little_beyond_what_a_pipeline_of_diffusers_does() -> None:
    ours = imported("import semantic_routing.pipelines.generate") - imported("from diffusers import DiffusionPipeline")
    assert len({name for name in ours if not name.startswith("semantic_routing")}) < 90, sorted(ours)


def test_the_version_is_told() -> None:
    assert sroute("--version").stdout == f"sroute {semantic_routing.__version__}\n"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("sroute gen", "generate"), ("sroute train scenes/joi", "scenes/joint")],
    ids=["command", "preset"],
)
def test_a_shell_completes_commands_and_presets(words: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_SROUTE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": words.count(" "),
    }.items():
        monkeypatch.setenv(name, str(value))
    assert sroute().stdout.split() == [wanted]


def test_the_schema_is_json_and_knows_imported_names(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from semantic_routing.fusion import FUSIONS\nFUSIONS.register('mine')(FUSIONS['joint'])\n"
    )
    schema = json.loads(sroute("--import", "mine.py", "config", "schema", cwd=tmp_path).stdout)
    assert "mine" in schema["$defs"]["ModelConfig"]["properties"]["strategy"]["anyOf"][0]["enum"]


def test_the_doctor_s_exit_code_says_whether_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from semantic_routing.io import doctor

    fine, full = doctor.Check("cpu", "2 cores", "ok"), doctor.Check("disk, here", "0.5 GiB free", "problem", "tidy up")
    for checks, code in (([fine], 0), ([fine, full], 1)):
        monkeypatch.setattr(doctor, "examine", lambda checks=checks: checks)
        result = CliRunner().invoke(cli.app, ["doctor"])
        assert result.exit_code == code
        assert all(text in result.stdout for check in checks for text in check)


def test_every_command_and_option_has_help() -> None:
    import typer

    from semantic_routing.cli import app

    def check(command: Any, name: str) -> None:
        assert command.help, f"{name} has no help"
        for child in getattr(command, "commands", {}).items():
            check(child[1], f"{name} {child[0]}")
        silent = [option.name for option in command.params if not getattr(option, "help", None)]
        assert not silent, f"{name} has options without help: {silent}"

    check(typer.main.get_command(app), "sroute")


def test_code_of_the_user_s_is_imported_before_any_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('imported')")
    for name, options in (("mine.py", {"cwd": tmp_path}), (tmp_path / "mine.py", {}), ("mine", {"cwd": tmp_path})):
        result = sroute("--import", "string", "--import", name, "train", "scenes/jiont", **options)
        assert result.stdout == "imported\n", result.stderr
        assert "no config file 'scenes/jiont'" in result.stderr
    result = sroute("--import", "gone.py", "train", "scenes/joint", cwd=tmp_path)
    assert result.returncode == 2
    assert "'gone.py' cannot be imported" in result.stderr
