"""Checkpoints are whole or not there, and refuse what they do not fit."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from semantic_routing.io.jsonl import read_lines
from semantic_routing.training import checkpoint as checkpoint_module
from semantic_routing.training import train
from semantic_routing.training.checkpoint import find_checkpoint, list_checkpoints
from semantic_routing.training.config import Config
from semantic_routing.training.export import export_pipeline
from semantic_routing.training.sharded import read_whole

MakeConfig = Callable[..., Config]
WHOLE = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}


class Killed(BaseException):
    """The process ends here."""


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ends the process at the `call`-th file of the second checkpoint, with half of it written."""
    save, calls = checkpoint_module.write_tensors, []

    def interrupted(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3 + call:
            path.write_bytes(b"half")
            raise Killed
        save(tensors, path)

    monkeypatch.setattr(checkpoint_module, "write_tensors", interrupted)


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


SHARD = "shard-00001-model-00001-of-00001.safetensors"


def test_shards_are_whole_or_not_there(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """They hold what a checkpoint in one piece holds, and end up so when interrupted or damaged."""
    options = {"steps": 4, "checkpoint_every": 2}
    whole = train(make_config(training={"output": tmp_path / "whole", **options}))
    config = make_config(training={"checkpoint_form": "sharded", **options})
    run, write = config.training.output, checkpoint_module.write_shards

    def interrupted(tensors: Any, folder: Path) -> None:
        write(tensors, folder)
        if list_checkpoints(run):
            damage(folder, SHARD, lambda content: content[:99])
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_shards", interrupted)
        with pytest.raises(Killed):
            train(config)
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-00000002"]
    last = train(config, "latest")
    for part in ("model", "ema", "optimizer"):
        one, other = load_file(whole / f"{part}.safetensors"), read_whole(last, f"{part}/")
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())

    shutil.copytree(last, tmp_path / "kept")
    changes: list[tuple[Callable[[Path], object], str]] = [
        (lambda shard: damage(last, SHARD, lambda content: content[:-1]), "is damaged: it has"),
        (lambda shard: damage(last, SHARD, lambda content: content[:-64] + bytes(64)), "is damaged: its content"),
        (lambda shard: shard.rename(shard.with_name("other.safetensors")), "is not of this checkpoint"),
        (lambda shard: shard.unlink(), "No such file"),
    ]
    for change, sentence in changes:
        change(last / SHARD)
        caplog.clear()
        assert find_checkpoint(run, "latest").name == "checkpoint-00000002"
        assert sentence in caplog.text
        shutil.rmtree(last)
        shutil.copytree(tmp_path / "kept", last)
    shutil.rmtree(last)
    one, other = load_file(train(config, "latest") / SHARD), load_file(tmp_path / "kept" / SHARD)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


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
        ({"model": {"strategy": "static"}}, "was trained with model.strategy='joint'; the config says 'static'"),
        ({"text": {"layers": 2}}, "was trained with text.layers='all'; the config says 2"),
        (
            {"data": {"source": {"source": "scenes", "spacing": 4}}},
            "was trained with data.source.spacing=1; the config",
        ),
        ({"optimizer": {"betas": [0.5, 0.9]}}, r"was trained with optimizer.betas=\[0.9, 0.999\]; the config says"),
        ({"training": {"seed": 1}}, "was trained with training.seed=0; the config says 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    make_config: MakeConfig, tiny_values: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    train(make_config(training={"steps": 1}))
    changed = {name: {**tiny_values[name], **values} for name, values in changes.items()}
    before = sorted(tiny_run(tiny_values).rglob("*"))
    with pytest.raises(ValueError, match=sentence):
        train(make_config(**changed), "latest")
    assert sorted(tiny_run(tiny_values).rglob("*")) == before


def test_a_change_that_is_allowed_by_name_takes_effect(make_config: MakeConfig, tmp_path: Path) -> None:
    """What is not about the steps may change anyway."""
    changes: dict[str, dict[str, Any]] = {"training": {"steps": 1, "checkpoint_every": 1}}
    train(make_config(**changes))
    free = {"steps": 2, "log_every": 2, "max_minutes": 60, "gradient_accumulation": 2}
    rate = {"learning_rate": 1.0, "schedule": "constant"}
    changed = make_config(training=free, optimizer=rate)
    with pytest.raises(
        ValueError, match=r"learning_rate=0.01; the config says 1.0: .* or with --allow-change optimizer"
    ):
        train(changed, "latest", ["optimizer.schedule", "optimizer.learning"])
    last = train(changed, "latest", ["optimizer"])
    assert read_lines(last.parent / "metrics.jsonl")[-1]["learning_rate"] == 1.0
    one, two = (load_file(path / "model.safetensors") for path in list_checkpoints(last.parent))
    assert max(float((two[name] - value).abs().max()) for name, value in one.items()) > 0.5


def tiny_run(values: dict[str, Any]) -> Path:
    return Path(values["training"]["output"])


def damage(checkpoint: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = checkpoint / name
    path.write_bytes(change(path.read_bytes()))


def rewrite(checkpoint: Path, name: str, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes tensors as a program would that also brings their digest up to date."""
    tensors = load_file(checkpoint / name)
    change(tensors)
    save_file(tensors, checkpoint / name)
    state = json.loads((checkpoint / "state.json").read_text())
    content = (checkpoint / name).read_bytes()
    state["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "state.json").write_text(json.dumps(state))


CUTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty state": ("state.json", lambda content: b""),
    "state of another step": ("state.json", lambda content: content.replace(b'"step": 4', b'"step": 999')),
    "state with a key less": ("state.json", lambda content: content.replace(b'"transformer"', b'"model"')),
    "cut weights": ("model.safetensors", lambda content: content[:-1]),
    "zeroed moments": ("optimizer.safetensors", lambda content: content[:-64] + bytes(64)),
}


def test_a_damaged_checkpoint_is_skipped_named_and_written_again(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    config = make_config(training={"steps": 4, "checkpoint_every": 2})
    last = train(config)
    whole, aside = tmp_path / "whole", last.with_name(last.name + ".damaged")
    shutil.copytree(last, whole)
    for file, change in CUTS.values():
        shutil.rmtree(last)
        shutil.copytree(whole, last)
        damage(last, file, change)
        caplog.clear()
        assert find_checkpoint(last.parent, "latest").name == "checkpoint-00000002"
        assert f"Skipped a damaged checkpoint: {last / file} is damaged: " in caplog.text
        with pytest.raises(ValueError, match=rf"{file} is damaged: "):
            find_checkpoint(last.parent, last.name)
    assert train(config, "latest") == last
    assert aside.is_dir()
    assert {path.name: path.read_bytes() for path in last.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_a_run_without_a_whole_checkpoint_is_left_alone(make_config: MakeConfig) -> None:
    config = make_config(training={"steps": 1})
    damage(train(config), "state.json", lambda content: b"{}")
    for resume, sentence in ((None, "already holds checkpoints"), ("latest", "or none that is whole")):
        with pytest.raises(ValueError, match=sentence):
            train(config, resume)


TENSORS: list[tuple[str, Callable[[dict[str, Tensor]], object], str]] = [
    ("model.safetensors", lambda tensors: tensors.pop("proj_out.weight"), "lacks proj_out.weight"),
    ("model.safetensors", lambda tensors: tensors.update(more=torch.zeros(1)), "holds more, which the model does not"),
    ("ema.safetensors", lambda tensors: tensors["proj_out.weight"].fill_(torch.nan), "infinite or not numbers"),
    (
        "ema.safetensors",
        lambda tensors: tensors.update({"proj_out.weight": torch.zeros(1)}),
        r"of shape \[1\]; the model",
    ),
    ("optimizer.safetensors", lambda tensors: tensors.pop("proj_out.weight/exp_avg"), "lacks proj_out.weight/exp_avg"),
    ("optimizer.safetensors", lambda tensors: tensors.clear(), "lacks "),
]


def test_tensors_are_exactly_those_of_the_model(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(training={"steps": 1})
    checkpoint = train(config)
    shutil.copytree(checkpoint, tmp_path / "whole")
    more = make_config(training={"steps": 2})
    for file, change, sentence in TENSORS:
        shutil.rmtree(checkpoint)
        shutil.copytree(tmp_path / "whole", checkpoint)
        rewrite(checkpoint, file, change)
        with pytest.raises(ValueError, match=f"{file} .*{sentence}"):
            train(more, "latest")
        if file == "ema.safetensors":
            with pytest.raises(ValueError, match=f"{file} .*{sentence}"):
                export_pipeline(checkpoint, tmp_path / "exported")
    assert list_checkpoints(checkpoint.parent) == [checkpoint]


def test_a_checkpoint_of_version_0_1_goes_on(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = train(make_config(training={"steps": 1}))
    state = json.loads((checkpoint / "state.json").read_text())
    del state["files"], state["run"]
    (checkpoint / "state.json").write_text(json.dumps(state | {"param_groups": []}))
    assert train(make_config(training={"steps": 2}), "latest").name == "checkpoint-00000002"
    assert "its files were not checked" in caplog.text


def test_a_fusion_that_never_learned_is_resumed(make_config: MakeConfig, tmp_path: Path) -> None:
    """Its parameters have no moments."""
    options = {"freeze_fusion_after": 0.0, "checkpoint_every": 1, "steps": 2}
    whole, parts = (make_config(training={"output": tmp_path / name, **options}) for name in ("whole", "parts"))
    last = train(whole)
    (tmp_path / "parts").mkdir()
    shutil.copytree(tmp_path / "whole/checkpoint-00000001", tmp_path / "parts/checkpoint-00000001")
    resumed = train(parts, "latest")
    for path in last.iterdir():
        assert path.read_bytes() == (resumed / path.name).read_bytes()


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
