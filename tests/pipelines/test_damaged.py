"""A damaged pipeline is refused in one sentence; weights that are missing are never invented."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.pipelines.saved import find_pipeline, layer_numbers, load_fusion
from semantic_routing.training import train
from semantic_routing.training.config import Config
from semantic_routing.training.export import export_pipeline

Damage = Callable[[Path], object]
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def pipeline(make_config: Callable[..., Config], vae_folder: Path, tmp_path: Path) -> Path:
    config = make_config(vae={"model": str(vae_folder)}, model={"patch_size": 4}, training={"steps": 1})
    return export_pipeline(train(config), tmp_path / "pipeline")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def with_tensors(change: Callable[[dict[str, Tensor]], object]) -> Damage:
    def damage(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return damage


def with_values(change: Callable[[Any], object]) -> Damage:
    def damage(path: Path) -> None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


def without_one(tensors: dict[str, Tensor]) -> None:
    del tensors[next(name for name in sorted(tensors) if name.endswith("weight"))]


def without_number(tensors: dict[str, Tensor]) -> None:
    next(iter(tensors.values())).flatten()[0] = torch.nan


WEIGHTS = {"transformer": TRANSFORMER, "vae": "vae/diffusion_pytorch_model.safetensors"}
WEIGHTS["text_encoder"] = "text_encoder/model.safetensors"
CASES: list[tuple[str, Damage, str]] = [
    *((file, cut, ".") for file in WEIGHTS.values()),
    *((file, with_tensors(without_one), "lack|missing") for file in WEIGHTS.values()),
    *((file, with_tensors(without_number), "infinite or not numbers") for file in WEIGHTS.values()),
    ("model_index.json", lambda path: path.write_text("[]"), "model_index.json holds list, not an object"),
    ("transformer/config.json", lambda path: path.write_text("[" * 100_000), "config.json is not JSON"),
    ("transformer/config.json", with_values(lambda values: values.pop("num_text_layers")), "num_text_layers"),
    ("transformer/config.json", with_values(lambda values: values.update(num_blocks="x" * 10**6)), "transformer"),
    ("scheduler/scheduler_config.json", lambda path: path.write_text("[]"), "config.json holds list, not"),
    ("tokenizer/tokenizer.json", lambda path: path.write_text("{}"), "pipeline"),
    ("text_encoder/config.json", with_values(lambda values: values.update(hidden_size=[])), "pipeline"),
    ("text_encoder/config.json", Path.unlink, "text_encoder has weights and no config.json"),
]


def read(pipeline: Path) -> None:
    layer_numbers(find_pipeline(str(pipeline)))
    load_pipeline(str(pipeline), device="cpu")


def test_damage_is_one_sentence(pipeline: Path, tmp_path: Path) -> None:
    place = tmp_path / "damaged"
    for file, damage, sentence in CASES:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(pipeline, place)
        damage(place / file)
        with pytest.raises((ValueError, OSError), match=sentence) as caught:
            read(place)
        assert 0 < len(str(caught.value).splitlines()[0]) < 1000, file
    read(pipeline)


def test_a_damaged_fusion_is_one_sentence(pipeline: Path) -> None:
    name = next(name for name in load_file(pipeline / TRANSFORMER) if name.startswith("fusion."))
    whole = (pipeline / TRANSFORMER).read_bytes()
    changes: list[tuple[Damage, str]] = [
        (cut, "cannot be read: SafetensorError"),
        (with_tensors(lambda tensors: tensors.pop(name)), f"lacks {name.removeprefix('fusion.')}"),
        (with_tensors(lambda tensors: tensors[name].fill_(torch.inf)), "infinite or not numbers"),
    ]
    for damage, sentence in changes:
        (pipeline / TRANSFORMER).write_bytes(whole)
        damage(pipeline / TRANSFORMER)
        with pytest.raises(ValueError, match=sentence):
            load_fusion(find_pipeline(str(pipeline)))
