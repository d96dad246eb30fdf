"""What the rooms' tests share: tiny random models of real classes, a real tokenizer, images on disk, a tiny config.

The package's shape annotations are checked at run time here, and nowhere else.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Rooms with shaped tensors. `scenes` has none, and checks of every small call made its tests several times slower.
SHAPED = ("adapters", "analysis", "evaluation", "flow", "fusion", "interop", "models", "pipelines", "text", "training")
install_import_hook([f"semantic_routing.{room}" for room in (*SHAPED, "data")], "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """`accelerate` keeps its settings for the life of a process; a test is one run of many."""
    yield
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`language_models(family)` is the folder of a tiny random checkpoint with its tokenizer, heads and towers."""
    from tiny import FAMILIES

    from semantic_routing.text.tiny import write_tiny_model

    root = tmp_path_factory.mktemp("language-models")

    def folder(family: str) -> Path:
        path = root / family
        if not path.exists():
            write_tiny_model(FAMILIES[family], path, seed=len(family))
        return path

    return folder


@pytest.fixture(scope="session")
def qwen3_vl(language_models: Callable[[str], Path]) -> Path:
    return language_models("qwen3-vl")


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random autoencoder."""
    from semantic_routing.models.tiny_vae import tiny_vae

    path = tmp_path_factory.mktemp("vae")
    tiny_vae().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSONL file of a folder of real PNG files."""
    from tiny import write_images

    return write_images(tmp_path_factory.mktemp("images") / "set")


@pytest.fixture
def tiny_values(language_models: Callable[[str], Path], tmp_path: Path) -> dict[str, Any]:
    """A run's config as plain values: scenes in pixels, a random language model, seconds for twenty steps."""
    from tiny import MODEL_SECTION

    return {
        "model": dict(MODEL_SECTION),
        "text": {"model": str(language_models("qwen3"))},
        "data": {"source": {"source": "scenes"}, "image_size": 32},
        "optimizer": {"learning_rate": 1e-2, "schedule": "linear", "warmup_steps": 3},
        "training": {
            "output": str(tmp_path / "run"),
            "steps": 20,
            "batch_size": 4,
            "ema_decay": 0.9,
            "log_every": 1,
            "checkpoint_every": 10,
        },
    }


@pytest.fixture
def make_config(tiny_values: dict[str, Any]) -> Callable[..., Any]:
    """The tiny config with keys of its sections changed: `make_config(training={"steps": 3})`."""
    from semantic_routing.training.config import Config

    def make(**changes: dict[str, Any]) -> Config:
        values = {name: {**tiny_values.get(name, {}), **changes.get(name, {})} for name in {*tiny_values, *changes}}
        return Config.model_validate(values)

    return make
