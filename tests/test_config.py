from pathlib import Path
from typing import Any

import pytest
import yaml

from semantic_routing.fusion import PAPER_STRATEGIES
from semantic_routing.io.config_files import PRESET_FOLDERS, find_config
from semantic_routing.io.resources import resource
from semantic_routing.training.config import Config, load_config

PRESETS = sorted(
    path for folder in PRESET_FOLDERS for path in (resource("configs") / folder).glob("*.yaml") if path.stem != "base"
)


def write(folder: Path, name: str, values: Any) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return str(path)


@pytest.fixture
def config_file(tiny_values: dict[str, Any], tmp_path: Path) -> str:
    return write(tmp_path, "config.yaml", tiny_values)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_presets_are_valid(path: Path) -> None:
    name = str(path.relative_to(resource("configs")).with_suffix(""))
    config = load_config(name)
    assert config.training.output.parts[0] == "runs"
    if path.stem in (*PAPER_STRATEGIES, "fusedit"):
        assert (config.model.strategy or config.model.kind) == path.stem


def test_the_paper_s_seven_variants_differ_in_the_strategy_alone() -> None:
    configs = [load_config(f"paper/{strategy}") for strategy in (*PAPER_STRATEGIES, "fusedit")]
    assert len(configs) == 7
    values = [config.model_dump(exclude={"model": {"strategy"}, "training": {"output"}}) for config in configs[:6]]
    assert all(value == values[0] for value in values)
    config = configs[4]
    assert (config.training.batch_size, config.training.steps, config.optimizer.learning_rate) == (512, 500_000, 1e-4)
    assert (config.model.num_blocks, config.model.hidden_size, config.data.image_size) == (24, 2048, 256)


def test_every_strategy_has_a_scenes_preset_that_differs_in_nothing_else() -> None:
    configs = [load_config(f"scenes/{strategy}") for strategy in PAPER_STRATEGIES]
    shared = [config.model_dump(exclude={"model": {"strategy"}, "training": {"output"}}) for config in configs]
    assert all(values == shared[0] for values in shared)
    assert len({config.training.output for config in configs}) == len(configs)


def test_the_resolved_config_reads_back(config_file: str, tmp_path: Path) -> None:
    config = load_config(config_file, ["validation.prompts=[a, b]", "text.layers=[1, -1]"])
    assert load_config(write(tmp_path, "again.yaml", config.to_yaml())) == config
    for preset in ("scenes/demo", "scenes/uniform"):
        assert load_config(write(tmp_path, "again.yaml", load_config(preset).to_yaml())) == load_config(preset)


def test_extends_is_relative_to_the_file_and_merges_by_key(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", tiny_values)
    write(tmp_path, "deep/middle.yaml", {"extends": "../base.yaml", "model": {"num_blocks": 3}})
    path = write(tmp_path, "deep/leaf.yaml", {"extends": "middle.yaml", "model": {"patch_size": 2}})
    config = load_config(path)
    assert (config.model.num_blocks, config.model.patch_size, config.model.hidden_size) == (3, 2, 32)


def test_another_data_source_replaces_the_first_and_keeps_the_rest(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    tiny_values["data"]["source"] = {"source": "json", "path": "a.json", "text_key": "caption"}
    write(tmp_path, "base.yaml", tiny_values)
    other = {"extends": "base.yaml", "data": {"source": {"source": "huggingface", "path": "b"}}}
    config = load_config(write(tmp_path, "other.yaml", other))
    assert config.data.source.source == "huggingface"
    assert config.data.source.text_key == "text"
    assert config.data.image_size == 32
    same = {"extends": "base.yaml", "data": {"source": {"path": "c.json"}}}
    config = load_config(write(tmp_path, "same.yaml", same))
    assert (str(config.data.source.path), config.data.source.text_key) == ("c.json", "caption")


def test_overrides_win_over_the_file(config_file: str) -> None:
    config = load_config(
        config_file,
        ["model.strategy=uniform", "optimizer.learning_rate=2e-4", "text.layers=2", "data.source.source=scenes"],
    )
    assert config.model.strategy == "uniform"
    assert config.optimizer.learning_rate == 2e-4
    assert config.text.layers == 2
    assert load_config(config_file, ["vae.model=somewhere"]).vae.model == "somewhere"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.stratgy=joint", "model.stratgy: unknown key"),
        ("model.strategy=deep", "model.strategy: expected one of penultimate, .*, joint.*, not 'deep'"),
        ("model.timestep_conditioning=film", "model.timestep_conditioning: expected one of none, .*, not 'film'"),
        ("model.num_blocks=0", "model.num_blocks: .*greater than 0, not 0"),
        ("model.num_blocks=many", "model.num_blocks: .*integer.*, not 'many'"),
        ("model.prediction=noise", "model.prediction: .*'velocity' or 'sample', not 'noise'"),
        ("text.layers=some", "text.layers: .*'all'.*, not 'some'"),
        ("text.layers=[1, x]", r"text.layers.1: .*integer.*, not 'x'"),
        ("data.source.source=web", "data.source.source: expected one of scenes, json, huggingface, latents, not 'web'"),
        ("training.steps={a: 1}", "training.steps: .*integer, not {'a': 1}"),
        ("data.source.path=x", "data.source.path: unknown key"),
        ("data.caption_dropout=1.5", "data.caption_dropout: .*less than or equal to 1, not 1.5"),
        ("data.image_size=18", "data.image_size 18 is not a multiple of model.patch_size 8"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: .*greater than 0, not -1"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: .*finite.*"),
        ("flow.timestep_mean=.nan", "flow.timestep_mean: .*finite.*"),
        ("optimizer.betas=[0.9, 1.0]", r"optimizer.betas.1: .*less than 1, not 1.0"),
        ("training.ema_decay=1", "training.ema_decay: .*less than 1, not 1"),
        ("validation.every=5", "validation.every .*validation.prompts"),
        ("training", "'training' is not of the form key.path=value"),
        ("training.steps.more=1", "'steps' is a value and has no keys"),
        ("text.layers=[1", r"'text.layers=\[1' is not valid YAML: .*expected ',' or '\]'"),
    ],
)
def test_a_mistake_is_named_by_its_path(config_file: str, override: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        load_config(config_file, [override])
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_named_at_once(config_file: str) -> None:
    with pytest.raises(ValueError, match=r"model.num_blocks: .*; training.stepz: unknown key"):
        load_config(config_file, ["model.num_blocks=0", "training.stepz=1"])


@pytest.mark.parametrize("key", ["model", "text", "data", "training"])
def test_what_is_missing_is_named(tiny_values: dict[str, Any], tmp_path: Path, key: str) -> None:
    del tiny_values[key]
    with pytest.raises(ValueError, match=f"{key}: this key is missing"):
        load_config(write(tmp_path, "config.yaml", tiny_values))


def test_a_missing_key_of_a_source_is_named_as_it_is_written(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    tiny_values["data"]["source"] = {"source": "json"}
    with pytest.raises(ValueError, match=r"data\.source\.path: this key is missing"):
        load_config(write(tmp_path, "config.yaml", tiny_values))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("extends: loop.yaml", "extends itself"),
        ("- a list", "holds list, not a mapping"),
        ("", "holds NoneType, not a mapping"),
        ("model: [", "not valid YAML"),
        ("extends: [a, b]", "extends.*not"),
        ("extends: missing.yaml", "missing.yaml"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises((ValueError, OSError), match=sentence):
        load_config(write(tmp_path, "loop.yaml", text))


def test_a_cycle_of_two_is_found(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", {"extends": "b.yaml"})
    with pytest.raises(ValueError, match=r"extends itself, by way of .*a.yaml"):
        load_config(write(tmp_path, "b.yaml", {"extends": "a.yaml"}))


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no config file 'scenes/depthwise'.*scenes/depth-wise") as caught:
        find_config("scenes/depthwise")
    assert "scenes/base" not in str(caught.value)
    assert "accelerate" not in str(caught.value)


def test_a_config_cannot_be_changed_by_accident(config_file: str) -> None:
    config: Any = load_config(config_file)
    with pytest.raises(ValueError, match="frozen"):
        config.training.steps = 5
    assert isinstance(config, Config)
