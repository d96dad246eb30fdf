"""Every key of the config changes something: the run's files, or the run is refused.

One small run is made for each key with one other value. A key that is in no table here fails the test, so a new key
cannot be forgotten.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel
from tiny import MODEL_SECTION

from semantic_routing.data.config import SOURCES
from semantic_routing.io.jsonl import read_lines
from semantic_routing.text.tiny import WORDS
from semantic_routing.training import train
from semantic_routing.training.config import Config
from semantic_routing.training.export import export_pipeline

REFUSED = "refused"

# For each key another value than the base's; with REFUSED the run must stop before it begins.
CHANGES: dict[str, Any] = {
    "model.kind": (REFUSED, "fusedit"),
    "model.strategy": "time-wise",
    "model.fusion_options": {"time_channels": 32},
    "model.context_channels": 24,
    "model.num_blocks": 1,
    "model.num_attention_heads": 2,
    "model.num_key_value_heads": 4,
    "model.attention_head_dim": 16,
    "model.hidden_size": 48,
    "model.patch_size": 4,
    "model.mlp_ratio": 2.0,
    "model.timestep_conditioning": "addition",
    "model.prediction": "sample",
    "model.position_embedding": "sincos",
    "model.rope_base": 10.0,
    "model.sandwich_norm": True,
    "model.norm_eps": 1e-2,
    "text.model": "<llama>",
    "text.layers": 2,
    "text.instruction": "draw ",
    "text.chat_template": True,
    "text.max_length": 1,
    "text.dtype": "bfloat16",
    "text.last_layer": "raw",
    "text.cache": "<folder>/cache",
    "text.num_hidden_layers": (REFUSED, 7),
    "text.hidden_size": (REFUSED, 7),
    "vae.model": (REFUSED, "<folder>/nowhere"),
    "vae.subfolder": (REFUSED, "nowhere"),
    "vae.dtype": "bfloat16",
    "vae.latent_channels": (REFUSED, 7),
    "vae.downsampling": (REFUSED, 4),
    "data.source": {"source": "scenes"},
    "data.image_size": 16,
    "data.buckets": [[40, 32], [24, 32]],
    "data.caption_dropout": 0.9,
    "data.original_caption_rate": 1.0,
    "data.random_crop": True,
    "data.horizontal_flip": True,
    "data.max_broken": (REFUSED, 0.0),
    "data.source.json.path": "<other>",
    "data.source.json.image_root": (REFUSED, "<folder>/nowhere"),
    "data.source.json.image_key": (REFUSED, "picture"),
    "data.source.json.text_key": "original_text",
    "data.source.json.original_text_key": "text",
    "data.source.scenes.skills": ["counting"],
    "data.source.scenes.spacing": 4,
    "data.source.scenes.crowd_spacing": 4,
    "data.source.scenes.captions": 2,
    "data.source.scenes.wording": "claims",
    "flow.timestep_mean": 1.0,
    "flow.timestep_std": 2.0,
    "flow.weight_power": 1.0,
    "flow.shift": 3.0,
    "optimizer.learning_rate": 1e-3,
    "optimizer.muon_learning_rate": 1e-2,
    "optimizer.fusion_learning_rate": 0.5,
    "optimizer.betas": [0.5, 0.9],
    "optimizer.weight_decay": 0.5,
    "optimizer.max_grad_norm": 1e-3,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 1,
    "training.steps": 4,
    "training.batch_size": 2,
    "training.initialize_from": "<pipeline>",
    "training.lora_rank": (REFUSED, 2),
    "training.seed": 1,
    "training.precision": "bfloat16",
    "training.attention_backend": (REFUSED, "nonsense"),
    "training.fp8": (REFUSED, True),
    "training.ema_decay": 0.1,
    "training.freeze_fusion_after": 0.0,
    "training.max_minutes": 1e-9,
    "training.log_every": 2,
    "training.checkpoint_every": 3,
    "training.checkpoint_form": "sharded",
    "training.keep_checkpoints": 1,
    "training.trackers": (REFUSED, ["nonsense"]),
    "validation.every": 1,
    "validation.prompts": ["the blue star"],
    "validation.num_inference_steps": 9,
    "validation.guidance_scale": 1.0,
    "validation.seed": 3,
    "validation.loss_every": 1,
    "validation.loss_examples": 1,
    "validation.source": {"source": "json", "path": "<other>"},
}

# Keys whose point is that the numbers stay, or that need more than a run; the test that holds each.
ELSEWHERE = {
    "imports": "cli/test_extending.py",
    "text.cache_gib": "text/test_feature_cache.py",
    "text.architecture": "models/test_flops.py",
    "data.num_workers": "data/test_stream.py",
    "data.bucket_step": "data/test_order.py",
    "data.shuffle_window": "data/test_order.py",
    "validation.width": "training/test_ahead.py",
    "validation.height": "training/test_ahead.py",
    "training.output": "training/test_run.py",
    "training.initialize": "training/test_trainer.py",
    "training.gradient_accumulation": "training/test_trainer.py",
    "training.gradient_checkpointing": "models/test_transformer.py",
    "training.compile": "models/test_compile.py",
    "training.ema_device": "training/test_trainer.py",
    **{f"data.source.huggingface.{key}": "data/test_data_sources.py" for key in ("path", "name", "split")},
    **{f"data.source.huggingface.{key}": "data/test_data_sources.py" for key in ("image_key", "text_key")},
    "data.source.latents.path": "training/test_precompute.py",
    **{f"data.source.webdataset.{key}": "data/test_shards.py" for key in ("path", "text_key", "original_text_key")},
    **{
        f"data.source.parquet.{key}": "data/test_pack.py"
        for key in ("path", "image_key", "text_key", "original_text_key", "row_groups")
    },
}


def keys_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    """All leaves of a section, a data source's under its name."""
    found = set()
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if section is None or name == "source":
            found.add(prefix + name)
        else:
            found |= keys_of(section, f"{prefix}{name}.")
    return found


def all_keys() -> set[str]:
    sources = {
        f"data.source.{name}.{key}" for name, source in SOURCES.items() for key in keys_of(source) if key != "source"
    }
    return keys_of(Config) | sources


def test_every_key_is_in_a_table() -> None:
    assert all_keys() == CHANGES.keys() | ELSEWHERE.keys()
    tests = Path(__file__).parents[1]
    assert [place for place in ELSEWHERE.values() if not (tests / place).is_file()] == []


def set_key(values: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value


def outcome(values: dict[str, Any], folder: Path) -> dict[str, object]:
    """What a run leaves: digests of its files, and its metrics without the time they took."""
    run = folder / "run"
    values["training"]["output"] = str(run)
    train(Config.model_validate(values))
    metrics = [
        {k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")}
        for line in read_lines(run / "metrics.jsonl")
    ]
    left_out = {"metrics.jsonl", "config.yaml", "versions.json"}
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in left_out
    }
    return {**files, "metrics": json.dumps(metrics)}


@pytest.fixture(scope="module")
def places(
    language_models: Callable[[str], Path], vae_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What stands for the names in angle brackets."""
    folder = tmp_path_factory.mktemp("places")
    for name, words in (("set", WORDS[:8]), ("other", WORDS[4:])):
        (folder / name).mkdir()
        records = []
        for number, word in enumerate(words):
            Image.effect_noise((40, 32), 20 + number).convert("RGB").save(folder / name / f"{number}.png")
            records.append({"image": f"{number}.png", "text": f"a {word}", "original_text": f"the {word} star"})
        (folder / name / "broken.png").write_bytes(b"no image")
        records.append({"image": "broken.png", "text": "a star", "original_text": "a star"})
        (folder / name / "set.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "<qwen3>": str(language_models("qwen3")),
        "<llama>": str(language_models("llama")),
        "<vae>": str(vae_folder),
        "<set>": str(folder / "set" / "set.jsonl"),
        "<other>": str(folder / "other" / "set.jsonl"),
        "<pipeline>": str(folder / "pipeline"),
    }


def base_values(kind: str, places: dict[str, str]) -> dict[str, Any]:
    """A run that makes use of every section: images from files, in pixels or in latents, or scenes."""
    values: dict[str, Any] = {
        "model": dict(MODEL_SECTION),
        "text": {"model": places["<qwen3>"]},
        "data": {
            "source": {"source": "json", "path": places["<set>"]},
            "image_size": 32,
            "caption_dropout": 0.3,
            "original_caption_rate": 0.3,
            "max_broken": 1.0,
        },
        "optimizer": {"learning_rate": 1e-2, "schedule": "linear", "warmup_steps": 2},
        "training": {"steps": 3, "batch_size": 4, "ema_decay": 0.9, "log_every": 1, "checkpoint_every": 2},
        "validation": {
            "every": 3,
            "prompts": ["a red circle"],
            "num_inference_steps": 2,
            "guidance_scale": 2.0,
            "loss_every": 2,
            "loss_examples": 3,
            "source": {"source": "json", "path": places["<set>"]},
        },
    }
    if kind == "scenes":
        values["data"] |= {"source": {"source": "scenes"}, "original_caption_rate": 0.0}
    if kind == "latents":
        values["vae"] = {"model": places["<vae>"]}
        values["data"]["image_size"] = 32
    return values


@pytest.fixture(scope="module")
def bases(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What the unchanged runs leave."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("pixels", "latents", "scenes")}
    found = {kind: outcome(base_values(kind, places), folder) for kind, folder in folders.items()}
    export_pipeline(folders["pixels"] / "run", Path(places["<pipeline>"]), with_text_encoder=False)
    return found


def test_the_same_run_twice_leaves_the_same(
    places: dict[str, str], bases: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    assert outcome(base_values("pixels", places), tmp_path) == bases["pixels"]


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_changes_the_run(
    key: str, places: dict[str, str], bases: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    kind = "latents" if key.startswith("vae.") else "scenes" if ".scenes." in key else "pixels"
    values, wanted = base_values(kind, places), CHANGES[key]
    refused = isinstance(wanted, tuple)
    text = json.dumps(wanted[1] if refused else wanted).replace("<folder>", str(tmp_path))
    for name, place in places.items():
        text = text.replace(name, place)
    path = [part for part in key.split(".") if part not in SOURCES]
    set_key(values, path, json.loads(text))
    if key == "data.source":
        values["data"]["original_caption_rate"] = 0.0
    if refused:
        with pytest.raises((ValueError, OSError)):
            outcome(values, tmp_path)
        assert not (tmp_path / "run" / "metrics.jsonl").exists() or key == "data.max_broken"
    else:
        assert outcome(values, tmp_path) != bases[kind]
