"""Checkpoints are whole or not there, and refuse what they do not fit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semantic_routing.training import checkpoint as checkpoint_module
from semantic_routing.training import train
from semantic_routing.training.checkpoint import find_checkpoint, list_checkpoints
from semantic_routing.training.config import Config

MakeConfig = Callable[..., Config]
WHOLE = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ends the process at the `call`-th file of the second checkpoint, with half of it written."""
    save, calls = checkpoint_module._save, []

    def interrupted(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3 + call:
            path.write_bytes(b"half")
            raise Killed
        save(tensors, path)

    monkeypatch.setattr(checkpoint_module, "_save", interrupted)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_interrupted_write_never_looks_complete(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    config = make_config(training={"steps": 4, "checkpoint_every": 2})
    with monkeypatch.context() as patch:
        kill_at(patch, call)
        with pytest.raises(Killed):
            train(config)
    run = config.training.output
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-00000002"]
    assert find_checkpoint(run, "latest").name == "checkpoint-00000002"
    train(config, "latest")
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-00000002", "checkpoint-00000004"}


def test_an_interrupted_removal_never_looks_complete(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(training={"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 1})
    run = config.training.output

    def interrupted(path: Path, ignore_errors: bool = False) -> None:
        if path.is_dir():
            (path / "model.safetensors").unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.shutil, "rmtree", interrupted)
        with pytest.raises(Killed):
            train(config)
    for path in list_checkpoints(run):
        assert {file.name for file in path.iterdir()} == WHOLE
    assert find_checkpoint(run, "latest").name == "checkpoint-00000004"
    config = make_config(training={"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 1})
    train(config, "latest")
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-00000006"]


def test_an_older_checkpoint_is_not_resumed_over_newer_ones(make_config: MakeConfig) -> None:
    config = make_config(training={"steps": 4, "checkpoint_every": 2})
    train(config)
    more = make_config(training={"steps": 6})
    with pytest.raises(ValueError, match="holds a later checkpoint than checkpoint-00000002: checkpoint-00000004"):
        train(more, "checkpoint-00000002")
    elsewhere = make_config(training={"steps": 3, "output": config.training.output.with_name("other")})
    assert train(elsewhere, str(config.training.output / "checkpoint-00000002")).name == "checkpoint-00000003"
    shutil.rmtree(config.training.output / "checkpoint-00000004")
    assert train(more, "checkpoint-00000002").name == "checkpoint-00000006"


def test_resuming_a_folder_that_is_no_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'gone' is not a checkpoint: it has no state\.json"):
        train(make_config(), "gone")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"strategy": "static"}}, "was trained with strategy='joint'; the config says 'static'"),
        ({"text": {"layers": 2}}, "was trained with num_text_layers=4; the config says 2"),
        ({"model": {"rope_base": 100.0}}, "was trained with rope_base=10000.0; the config says 100.0"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(
    make_config: MakeConfig, tiny_values: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    train(make_config(training={"steps": 1}))
    changed = {name: {**tiny_values[name], **values} for name, values in changes.items()}
    with pytest.raises(ValueError, match=sentence):
        train(make_config(**changed), "latest")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text": {"layers": [9]}}, "Layer 9 is out of range: the language model has layers 0 to 4"),
        ({"text": {"hidden_size": 64}}, r"\(4, 32\) layers and channels; the config says \(4, 64\)"),
        ({"text": {"num_hidden_layers": 3, "hidden_size": 32}}, r"the config says \(3, 32\)"),
        ({"text": {"chat_template": True, "model": "{bert}"}}, "chat_template is set"),
        ({"text": {"model": "gone/away"}}, "no text encoder 'gone/away'"),
        (
            {"training": {"batch_size": 4, "gradient_accumulation": 3}},
            "batch_size 4 cannot be shared by 1 processes x 3",
        ),
        ({"training": {"trackers": ["nonsense"]}}, "nonsense"),
        ({"training": {"attention_backend": "nonsense"}}, "nonsense"),
        ({"data": {"image_size": 36, "source": {"source": "json", "path": "{images}"}}}, "36 is not a multiple of"),
        ({"vae": {"model": "{vae}"}, "data": {"image_size": 40}}, "data.image_size 40 is not a multiple of 16"),
        (
            {"vae": {"model": "{vae}", "latent_channels": 8, "downsampling": 2}},
            r"has \(4, 2\) channels and downsampling; the config says \(8, 2\)",
        ),
        ({"vae": {"model": "{vae}/gone"}}, "gone"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    make_config: MakeConfig,
    changes: dict[str, dict[str, Any]],
    sentence: str,
    tmp_path: Path,
    vae_folder: Path,
    image_folder: Path,
    language_models: Callable[[str], Path],
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(language_models("bert"), plain)
    (plain / "chat_template.jinja").unlink()
    places = {
        "{images}": str(image_folder),
        "{vae}": str(vae_folder),
        "{bert}": str(plain),
    }

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        for name, place in places.items():
            value = value.replace(name, place) if isinstance(value, str) else value
        return value

    with pytest.raises((ValueError, OSError), match=sentence):
        train(make_config(**fill(changes)))
    assert not list_checkpoints(tmp_path / "run")
