"""Reading configs: YAML files and presets, what they extend, and changes from the command line. Nothing is checked yet.

Nothing here imports torch, so that a name that does not exist is refused at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .files import JsonObject
from .messages import brief
from .resources import resource
from .strict_yaml import parse_yaml

# Of the folders in `configs`, those whose files are runs.
PRESET_FOLDERS = ("scenes", "images", "paper")

PIPELINE_FILE = "model_index.json"


class WrittenConfig(NamedTuple):
    """What the user wrote, put together but not checked; files named in `imports` are absolute."""

    path: Path
    values: JsonObject


def find_config(name: str, folder: Path | None = None) -> Path:
    """A config file by path, or a preset by name such as `scenes/depth-wise`.

    Args:
        name: path or preset.
        folder: where relative paths start; None is the current folder.

    Raises:
        ValueError: there is neither.
    """
    for path in ((folder or Path()) / name, resource("configs") / f"{name}.yaml"):
        if _is_file(path):
            return path
    known = ", ".join(presets())
    raise ValueError(f"There is no config file {brief(name)} and no preset of that name; presets: {known}.")


def presets() -> list[str]:
    """Names of the presets that are runs, such as `scenes/depth-wise`."""
    files = (path for kind in PRESET_FOLDERS for path in sorted((resource("configs") / kind).glob("*.yaml")))
    return [f"{path.parent.name}/{path.stem}" for path in files if path.stem != "base"]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than a path can be, or with characters that no path has
        return False


def read_config(name: str, overrides: Sequence[str] = ()) -> WrittenConfig:
    """Reads a config with what it extends, and applies dotted overrides (`training.steps=100`).

    Raises:
        ValueError: there is no such config, or one of its files or an override is malformed.
    """
    path = find_config(name)
    values = _read(path)
    for change in overrides:
        override(values, change)
    return WrittenConfig(path, values)


def override(values: JsonObject, change: str) -> None:
    """Applies one dotted override (`training.steps=100`) to values, in place.

    Raises:
        ValueError: it is malformed.
    """
    key, separator, text = change.partition("=")
    if not separator:
        raise ValueError(f"Override {brief(change)} is not of the form key.path=value.")
    value = parse_yaml(text, f"Override {brief(change)}")
    _set(values, key.split("."), _absolute(value, Path()) if key == "imports" else value, change)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> JsonObject:
    """A YAML mapping, merged over what it `extends`: a path relative to the file itself, or a preset."""
    if path.resolve() in seen:
        raise ValueError(f"{path} extends itself, by way of {seen[-1]}.")
    values = _read_mapping(path)
    if values.get("imports"):
        if (path.parent / PIPELINE_FILE).exists():
            raise ValueError(
                f"{path} comes with a pipeline, so what it imports is not run; copy it to a folder of your own if you "
                "trust that code."
            )
        values["imports"] = _absolute(values["imports"], path.parent)
    base = values.pop("extends", None)
    if not isinstance(base, str | None):
        raise ValueError(f"{path}: extends names one file or preset, not {brief(base)}.")
    if base is None:
        return values
    try:
        found = find_config(base, path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: extends: {error}") from error
    below = _read(found, (*seen, path.resolve()))
    if isinstance(below.get("imports"), list) and isinstance(values.get("imports"), list):
        values["imports"] = [*below["imports"], *values["imports"]]  # what the base needs, it still needs
    return _merge(below, values)


def _read_mapping(path: Path) -> JsonObject:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, not a mapping of keys to values.")
    return values


def _absolute(imports: object, folder: Path) -> object:
    """`imports` with absolute files; what is no list of names is left for the check that follows."""
    if not isinstance(imports, list):
        return imports
    return [
        str((folder / name).resolve()) if isinstance(name, str) and name.endswith(".py") else name for name in imports
    ]


def _merge(base: JsonObject, over: JsonObject) -> JsonObject:
    """`over` on top of `base`, key by key; a data source replaces the other whole, since its keys belong together."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both and not isinstance(value.get("source"), str) else value
    return merged


def _set(values: JsonObject, path: list[str], value: object, override: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ValueError(f"Override {brief(override)}: {part!r} is a value and has no keys.")
    values[path[-1]] = value
