"""Buckets and features computed ahead, from pictures of mixed shapes: trained, stopped, resumed, by one and by two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import CAPTIONS

from semantic_routing.data import buckets as buckets_module
from semantic_routing.data import shards as shards_module
from semantic_routing.data.latents import Manifest
from semantic_routing.data.pack import pack, source_of
from semantic_routing.io.jsonl import read_lines
from semantic_routing.text import TextEncoder
from semantic_routing.training import train
from semantic_routing.training import trainer as trainer_module
from semantic_routing.training.config import Config
from semantic_routing.training.precompute import precompute
from semantic_routing.training.trainer import make_trainer

CPU = torch.device("cpu")
SHAPES = ((40, 20), (20, 40), (30, 30))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "cached_assets_path", lambda *names: tmp_path)
    monkeypatch.setattr(buckets_module, "cached_assets_path", lambda *names: tmp_path)
    whole = Manifest.__init__
    monkeypatch.setattr(Manifest, "__init__", lambda self, **values: whole(self, **{"shard_size": 4} | values))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Tar shards of twelve pictures of three shapes."""
    (tmp_path / "set").mkdir()
    records = []
    for number in range(12):
        width, height = SHAPES[number % 3]
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{number}.png")
        records.append({"image": f"{number}.png", "text": [CAPTIONS[number % 4], f"{number}"]})
    path = tmp_path / "set" / "set.json"
    path.write_text(json.dumps(records))
    config = source_of(str(path))
    assert config is not None
    pack(config, tmp_path / "packed", 16, shard_size=5)
    return tmp_path / "packed"


Run = Callable[..., Config]


@pytest.fixture
def run(make_config: Run, packed: Path, vae_folder: Path, tmp_path: Path) -> Run:
    """`run(name)` trains on the pictures, `run(name, ahead=folder)` on what was computed ahead."""

    def config(name: str = "run", ahead: Path | None = None, **changes: Any) -> Config:
        source = {"source": "latents", "path": ahead} if ahead else {"source": "webdataset", "path": str(packed)}
        data = {"source": source, "image_size": 16, "buckets": [[20, 12], [12, 20], [16, 16]], "caption_dropout": 0.3}
        return make_config(
            vae={"model": str(vae_folder)},
            model={"patch_size": 2},
            data=data | changes.get("data", {}),
            text=changes.get("text", {}),
            training={"output": tmp_path / name, "steps": 6, "checkpoint_every": 3} | changes.get("training", {}),
            optimizer={"schedule": "constant", "warmup_steps": 0},
            validation=changes.get("validation", {}),
        )

    return config


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


def test_training_ahead_runs_neither_vae_nor_language_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, shards in (("0", 2), ("1", 3)):
        monkeypatch.setenv("RANK", rank)
        precompute(run(), tmp_path / "ahead", 3, CPU, text=True)
        assert len(list((tmp_path / "ahead").glob("shard-*"))) == shards
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    with safe_open(tmp_path / "ahead" / "shard-00000.safetensors", "pt") as file:
        assert {"0", "0.0", "0.1", "empty", "3.1"} < set(file.keys())
        assert file.get_tensor("0.0").dtype == torch.bfloat16
        assert file.get_tensor("0").shape[1:] == (6, 10)
    train(run("pictures"))
    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderKL, "from_pretrained", None)
        patch.setattr(TextEncoder, "load", None)
        train(run("ahead-run", tmp_path / "ahead"))
        train(run("stopped", tmp_path / "ahead", training={"steps": 3}))
        train(run("stopped", tmp_path / "ahead"), resume="latest")
    assert losses(tmp_path / "ahead-run") == pytest.approx(losses(tmp_path / "pictures"), rel=2e-2)
    names = [tmp_path / name / "checkpoint-00000006" / "model.safetensors" for name in ("ahead-run", "stopped")]
    one, other = map(load_file, names)
    assert all(one[key].equal(other[key]) for key in one)
    waits = [line["data_wait"] for line in read_lines(tmp_path / "ahead-run" / "metrics.jsonl")]
    assert all(0 < wait < 1 for wait in waits)


def test_what_was_computed_otherwise_is_refused(run: Run, tmp_path: Path) -> None:
    precompute(run(), tmp_path / "ahead", 3, CPU, text=True)
    for change, sentence in (
        ({"text": {"instruction": "draw "}}, "holds features of a text encoder with instruction=''; the config's has"),
        ({"text": {"layers": 2}}, r"with layers=\[1, 2"),
        ({"text": {"max_length": 7}}, "with max_length=512; the config's has 7"),
        ({"data": {"buckets": [[16, 16]]}}, r"ahead was made with other data.buckets, image_size or bucket_step"),
        ({"data": {"buckets": None}}, r"ahead was made with other data.buckets"),
    ):
        with pytest.raises(ValueError, match=sentence):
            train(run("other", tmp_path / "ahead", **change))
        if "text" in change:
            with pytest.raises(ValueError, match=r"ahead was begun with text\.\w+ .*; the config says "):
                precompute(run(**change), tmp_path / "ahead", 3, CPU, text=True)
    with pytest.raises(ValueError, match=r"data.buckets: 18x12 is not in multiples of 4, a patch's pixels"):
        train(run("other", data={"buckets": [[18, 12]]}))
    with pytest.raises(ValueError, match=r"validation.width 18 is not a multiple of 4"):
        train(run("other", validation={"width": 18}))


def test_validation_images_may_be_oblong(run: Run, tmp_path: Path) -> None:
    validation = {"every": 1, "prompts": ["a star"], "num_inference_steps": 1, "width": 24, "height": 12}
    train(run("watched", training={"steps": 1}, validation=validation))
    with Image.open(tmp_path / "watched" / "samples" / "step-00000001.png") as image:
        oblong = image.size
    train(run("square", training={"steps": 1}, validation=validation | {"width": 12, "height": 12}))
    with Image.open(tmp_path / "square" / "samples" / "step-00000001.png") as image:
        assert oblong[1] < image.size[1] or oblong[0] > image.size[0]  # a sheet has captions and a scale of its own


def test_what_shards_lack_counts_as_broken(run: Run, packed: Path) -> None:
    (packed / "z.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 13 examples are broken, more than data.max_broken 1.00%: z.tar: empty"):
        make_trainer(run())


def test_a_share_of_waiting_is_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(number) for number in range(10**6))
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: next(clock))
    train(run("timed", training={"steps": 2}))
    assert all(0 < line["data_wait"] < 1 for line in read_lines(tmp_path / "timed" / "metrics.jsonl"))
