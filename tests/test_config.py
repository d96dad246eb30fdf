import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import torch
import yaml
from pydantic import BaseModel, Field

from semantic_routing.data import SOURCES
from semantic_routing.data.sources import SourceConfig
from semantic_routing.fusion import FUSIONS, PAPER_STRATEGIES
from semantic_routing.io import precision
from semantic_routing.io.config_files import PRESET_FOLDERS, find_config
from semantic_routing.io.resources import resource
from semantic_routing.models.timestep import TIMESTEP_CONDITIONINGS
from semantic_routing.training.config import Config, load_config
from semantic_routing.training.schema import config_schema

MOONS = {"model": {"strategy": "word-gate"}, "data": {"source": {"source": "moons", "count": 3}}}
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
        (
            "model.strategy=fusedit",
            "model.strategy: for FuseDiT write model.kind: fusedit and no strategy",
        ),
        ("model.strategy=null", "model.strategy: this key is missing; expected one of penultimate"),
        ("model.kind=fusedit", "model.kind fusedit has no fusion: leave out model.strategy, here 'joint'"),
        ("model.kind=unet", "model.kind: expected one of routed, fusedit, not 'unet'"),
        ("model.strategy=deep", "model.strategy: expected one of penultimate, .*, joint.*, not 'deep'"),
        ("model.timestep_conditioning=film", "model.timestep_conditioning: expected one of none, .*, not 'film'"),
        ("model.num_blocks=0", "model.num_blocks: .*greater than 0, not 0"),
        ("model.num_blocks=many", "model.num_blocks: .*integer.*, not 'many'"),
        ("model.prediction=noise", "model.prediction: .*'velocity' or 'sample', not 'noise'"),
        ("text.layers=some", "text.layers: .*'all'.*, not 'some'"),
        ("text.layers=[1, x]", r"text.layers.1: .*integer.*, not 'x'"),
        (
            "data.source.source=web",
            "data.source.source: expected one of scenes, json, huggingface, latents, parquet, webdataset, not 'web'",
        ),
        ("training.steps={a: 1}", "training.steps: .*integer, not {'a': 1}"),
        ("data.source.path=x", "data.source.path: unknown key"),
        ("data.source=scenes", "data.source: .*not 'scenes'"),
        ("data.source={}", "data.source.source: this key is missing"),
        ("imports=word_gate.py", "imports: .*list, not 'word_gate.py'"),
        ("training.output=''", "training.output: expected the name of a folder, not ''"),
        ("data.num_workers=100000", "data.num_workers: .*less than or equal to 1024, not 100000"),
        ("data.image_size=1000000", "data.image_size: .*less than or equal to 16384, not 1000000"),
        ("validation.num_inference_steps=1000000000", "less than or equal to 10000, not 1000000000"),
        ("training.seed=9223372036854775808", "training.seed: .*less than or equal to 9223372036854775807"),
        ("training.steps={a: 1, a: 2}", "the key 'a' is named twice"),
        ("data.caption_dropout=1.5", "data.caption_dropout: .*less than or equal to 1, not 1.5"),
        ("data.image_size=18", "data.image_size 18 is not a multiple of model.patch_size 8"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: .*greater than 0, not -1"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: .*finite.*"),
        ("flow.timestep_mean=.nan", "flow.timestep_mean: .*finite.*"),
        ("optimizer.betas=[0.9]", r"optimizer.betas.1: this key is missing"),
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
    with pytest.raises(ValueError, match=r"training.stepz: unknown key; model.num_blocks: "):
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


def multiplied(first: str, template: str) -> str:
    """A YAML text of ten lines, each of which holds the one before nine times."""
    lines = [template.format(", ".join([f"*a{number}"] * 9)) for number in range(9)]
    return "".join(f"a{number}: &a{number} {line}\n" for number, line in enumerate([first, *lines]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {}\nmodel: {}", "the key 'model' is named twice, again in line 2"),
        ("a: {b: {c: 1, 'c': 2}}", "the key 'c' is named twice"),
        (multiplied("[x]", "[{}]"), "holds more than 100000 values once its aliases are expanded"),
        (multiplied("{x: 1}", "{{<<: [{}]}}"), "holds more than 100000 values once its aliases are expanded"),
        ("a: &a [*a]", "an alias in line 1 holds itself"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: \x0b", "not valid YAML"),
        ("a: " + ":".join(["59"] * 400) + ".5", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("#" * 1_000_001, "1000001 characters"),
    ],
    ids=[
        "twice",
        "twice-below",
        "aliases",
        "merges",
        "cycle",
        "deep",
        "digits",
        "control",
        "sexagesimal",
        "python",
        "large",
    ],
)
def test_yaml_that_no_config_means_is_refused_at_once(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, "config.yaml", text)
    started = time.process_time()
    with pytest.raises(ValueError, match=sentence) as caught:
        load_config(path)
    assert time.process_time() - started < 5
    assert "config.yaml" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_alias_that_stays_small_is_allowed(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    text = yaml.safe_dump(tiny_values) + "validation: {prompts: [&p a star, *p]}\n"
    assert load_config(write(tmp_path, "config.yaml", text)).validation.prompts == ["a star", "a star"]


def test_a_message_cuts_the_values_that_it_repeats(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    tiny_values["training"] |= {"steps": "x" * 500_000, "y" * 100_000: 1}
    tiny_values |= {f"key{number}": 1 for number in range(1000)}
    with pytest.raises(ValueError, match=r"training\.steps: .*xx.*xx.*and 992 more") as caught:
        load_config(write(tmp_path, "config.yaml", tiny_values))
    assert len(str(caught.value)) < 2000
    with pytest.raises(ValueError, match="no config file") as caught:
        load_config("z" * 100_000)
    assert len(str(caught.value)) < 1000


def test_extends_takes_a_preset_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", {"extends": "scenes/depth-wise", "training": {"output": "mine"}})
    preset = load_config("scenes/depth-wise")
    assert load_config(path).training.output == Path("mine")
    assert load_config(path).model_dump(exclude={"training"}) == preset.model_dump(exclude={"training"})
    with pytest.raises(ValueError, match=r"mine.yaml: extends: There is no config file 'scenes/deep' .*scenes/joint"):
        load_config(write(tmp_path, "mine.yaml", {"extends": "scenes/deep"}))


def described(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, str | None]]:
    """Each key of a section and of the sections within it, with its description."""
    for name, field in section.model_fields.items():
        yield f"{path}{name}", field.description
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from described(kind, f"{path}{name}.")


def test_every_key_is_described() -> None:
    keys = [pair for section in (Config, *SOURCES.values()) for pair in described(section)]
    assert len(keys) > 75
    assert [key for key, description in keys if not description] == []


MY_FILE = """
from pydantic import Field
from PIL import Image
from semantic_routing.data import SOURCES, Example, Source, SourceConfig
from semantic_routing.models.timestep import TIMESTEP_CONDITIONINGS, NoConditioning

class Moons(Source):
    length = 3

    def __getitem__(self, index):
        return Example(Image.new("RGB", (32, 32)), ["a moon"])

@SOURCES.register("moons")
class MoonsSource(SourceConfig):
    count: int = Field(3, gt=0, description="moons to draw")

    def open(self, image_size, seed):
        return Moons()

TIMESTEP_CONDITIONINGS.register("mine")(type("Mine", (NoConditioning,), {}))
"""


@pytest.fixture
def clean_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is gone after it, and so are the modules that it imported."""
    for registry in (SOURCES, TIMESTEP_CONDITIONINGS):
        monkeypatch.setattr(registry, "_items", dict(registry))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


@pytest.mark.usefixtures("clean_registries")
def test_what_a_config_imports_is_known_like_ours(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "code/my_classes.py", MY_FILE)
    write(tmp_path, "code/base.yaml", tiny_values | {"imports": ["my_classes.py", "json"]})
    changes = {"data": {"source": {"source": "moons", "count": 2}}, "model": {"timestep_conditioning": "mine"}}
    mine = {"extends": "code/base.yaml", "imports": ["string"], **changes}
    config = load_config(write(tmp_path, "mine.yaml", mine))
    assert config.imports == [str(tmp_path / "code" / "my_classes.py"), "json", "string"]
    assert config.data.source.open(32, 0)[1].captions == ["a moon"]
    assert config.model.timestep_conditioning == "mine"
    assert load_config(write(tmp_path, "elsewhere/resolved.yaml", config.to_yaml())) == config
    with pytest.raises(ValueError, match=r"data.source.count: .*greater than 0, not -1"):
        load_config(str(tmp_path / "mine.yaml"), ["data.source.count=-1"])


@pytest.mark.usefixtures("clean_registries")
@pytest.mark.parametrize(
    ("imports", "sentence"),
    [
        (["gone.py"], "'.*gone.py' cannot be imported: FileNotFoundError: there is no file"),
        (["no_such_module"], "'no_such_module' cannot be imported: .*No module named"),
        (["broken.py"], "'.*broken.py' cannot be imported: .*ZeroDivisionError: division by zero"),
        (["taken.py"], "'.*taken.py' cannot be imported: .*'json' is registered already, by .*FolderSource"),
        ([3], "imports.0: .*string, not 3"),
    ],
)
def test_code_that_cannot_be_imported_is_one_sentence(
    tiny_values: dict[str, Any], tmp_path: Path, imports: list[Any], sentence: str
) -> None:
    write(tmp_path, "broken.py", "1 / 0")
    write(tmp_path, "taken.py", "from semantic_routing.data import SOURCES\nSOURCES.register('json')(int)")
    with pytest.raises(ValueError, match=sentence) as caught:
        load_config(write(tmp_path, "config.yaml", tiny_values | {"imports": imports}))
    assert "\n" not in str(caught.value)


def test_nothing_is_imported_for_a_config_that_comes_with_a_pipeline(
    tiny_values: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, "hub/evil.py", "raise SystemExit('run')")
    write(tmp_path, "hub/model_index.json", "{}")
    theirs = write(tmp_path, "hub/config.yaml", tiny_values | {"imports": ["evil.py"]})
    for name in (theirs, write(tmp_path, "mine.yaml", {"extends": "hub/config.yaml"})):
        with pytest.raises(ValueError, match=r"hub/config.yaml comes with a pipeline, so what it imports is not run"):
            load_config(name)


def test_a_config_cannot_be_changed_by_accident(config_file: str) -> None:
    config: Any = load_config(config_file)
    with pytest.raises(ValueError, match="frozen"):
        config.training.steps = 5
    assert isinstance(config, Config)


def test_the_schema_accepts_presets_and_refuses_what_the_loader_refuses() -> None:
    validator = jsonschema.Draft202012Validator(config_schema())
    for path in resource("configs").glob("*/*.yaml"):
        if path.parent.name != "accelerate":
            assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == [], path
    for wrong in (
        {"model": {"strategie": "joint"}},
        {"model": {"strategy": "jiont"}},
        {"data": {"source": {"source": "json", "skills": []}}},
        {"data": {"source": {"source": "moons"}}},
        {"training": {"steps": 0}},
        {"training": {"steps": "many"}},
        {"extends": ["a", "b"]},
    ):
        assert not validator.is_valid(wrong), wrong


def test_the_schema_knows_what_is_registered_and_says_what_keys_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    class MoonsSource(SourceConfig):
        count: int = Field(100, description="moons to draw")

    assert not jsonschema.Draft202012Validator(config_schema()).is_valid(MOONS)
    monkeypatch.setitem(SOURCES._items, "moons", MoonsSource)
    monkeypatch.setitem(FUSIONS._items, "word-gate", FUSIONS["joint"])
    schema = config_schema()
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(MOONS)
    assert not validator.is_valid({"data": {"source": {"source": "moons", "count": "few"}}})

    def check(value: Any, where: str) -> None:
        if isinstance(value, dict):
            for name, option in value.get("properties", {}).items():
                assert option.get("description"), f"{where}.{name}"
            for name, child in value.items():
                check(child, f"{where}.{name}")

    check(schema, "config")


def test_auto_is_kept_as_what_this_machine_multiplies_fast(config_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in ("float32", "bfloat16"):
        monkeypatch.setattr(precision, "fast_precision", lambda fast=fast: fast)
        config = load_config(config_file, ["training.precision=auto", "text.dtype=auto"])
        assert (config.training.precision, config.text.dtype) == (fast, fast)
        assert load_config(config_file, ["training.precision=bfloat16"]).training.precision == "bfloat16"
    with pytest.raises(ValueError, match=r"training\.precision"):
        load_config(config_file, ["training.precision=half"])


def test_fast_precision_is_the_faster_one_by_far() -> None:
    """Where bfloat16 is taken its products are not slower than float32's by more than the noise of a busy machine."""

    def seconds(dtype: torch.dtype) -> float:
        matrix, taken = torch.ones(256, 256, dtype=dtype), []
        for _ in range(7):
            start = time.thread_time()
            matrix @ matrix
            taken.append(time.thread_time() - start)
        return min(taken)

    ratio = seconds(torch.bfloat16) / seconds(torch.float32)
    assert ratio < 3 if precision.fast_precision() == "bfloat16" else ratio > 1
