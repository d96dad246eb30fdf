"""Where images and captions come from. A new source is one `SourceConfig` and its place in the config's union."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from ..scenes import render, sample_scene


class BrokenExampleError(Exception):
    """An image or record that cannot be read; the message names it and says why."""


class Example(NamedTuple):
    """One image, and the captions to draw from."""

    image: Image.Image
    captions: Sequence[str]


class Source(ABC):
    """Examples by index."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """How many examples there are; None for an endless source."""

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """The example at `index`; raises `BrokenExampleError` where it cannot be read."""


class SourceConfig(BaseModel):
    """Options of a source; `open` checks what it can and makes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def open(self, image_size: int, seed: int) -> Source:
        """Makes the source. Raises ValueError or OSError where there is nothing to read."""
        raise NotImplementedError


class ScenesSource(SourceConfig):
    """The embedded world: an endless stream of rendered scenes, of the size that training asks for."""

    source: Literal["scenes"] = "scenes"

    def open(self, image_size: int, seed: int) -> Source:
        """Needs nothing."""
        return _Scenes(image_size, seed)


class _Scenes(Source):
    length = None

    def __init__(self, image_size: int, seed: int) -> None:
        self.image_size = image_size
        self.seed = seed

    def __getitem__(self, index: int) -> Example:
        sample = sample_scene(self.seed, index)
        return Example(Image.fromarray(render(sample.scene, self.image_size)), [sample.caption])


class FolderSource(SourceConfig):
    """A JSON list or JSON lines of records, beside a folder of images (the reference's format)."""

    source: Literal["json"] = "json"
    path: Path = Field(description="JSON or JSONL file")
    image_root: Path | None = Field(None, description="folder that image paths start from; default: the file's")
    image_key: str = Field("image", description="key of the image's path")
    text_key: str = Field("text", description="key of the caption, or of a list of captions to draw from")

    def open(self, image_size: int, seed: int) -> Source:
        """Reads the records; images are opened when asked for."""
        records = _read_records(self.path)
        root = (self.image_root or self.path.parent).resolve()
        if not root.is_dir():
            raise ValueError(f"The image folder {root} does not exist.")
        return _Folder(records, root, self.image_key, self.text_key)


def _read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON list or of JSON lines, which are told apart by the first character."""
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not records:
        raise ValueError(f"The data set {path} is empty.")
    return records


class _Folder(Source):
    def __init__(self, records: list[dict[str, Any]], root: Path, image_key: str, text_key: str) -> None:
        self.records = records
        self.root = root
        self.image_key = image_key
        self.text_key = text_key

    @property
    def length(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = self.records[index]
        if not isinstance(record, dict) or not isinstance(record.get(self.image_key), str):
            raise BrokenExampleError(f"record {index}: no image path under {self.image_key!r}")
        path = (self.root / record[self.image_key]).resolve()
        if not path.is_relative_to(self.root):
            raise BrokenExampleError(f"record {index}: {record[self.image_key]} lies outside of the image folder")
        try:
            with Image.open(path) as image:
                return Example(image.convert("RGB"), _captions(record.get(self.text_key), f"record {index}"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BrokenExampleError(f"{record[self.image_key]}: {error}") from error


def _captions(text: Any, name: str) -> list[str]:
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise BrokenExampleError(f"{name}: the caption is {text!r}, not a text or a list of texts")
    return captions


class HuggingFaceSource(SourceConfig):
    """A Hugging Face data set, saved to a folder (`save_to_disk`) or readable by `load_dataset`."""

    source: Literal["huggingface"] = "huggingface"
    path: str = Field(description="folder or hub name")
    name: str | None = Field(None, description="configuration of the data set")
    split: str = Field("train", description="split to train on")
    image_key: str = Field("image", description="image column")
    text_key: str = Field("text", description="caption column, of texts or of lists of texts to draw from")

    def open(self, image_size: int, seed: int) -> Source:
        """Opens the data set memory-mapped."""
        import datasets

        if (Path(self.path) / "dataset_dict.json").is_file():
            dataset = datasets.load_from_disk(self.path)[self.split]
        elif (Path(self.path) / "dataset_info.json").is_file():
            dataset = datasets.load_from_disk(self.path)
        else:
            dataset = datasets.load_dataset(self.path, self.name, split=self.split)
        for key in (self.image_key, self.text_key):
            if key not in dataset.column_names:
                raise ValueError(f"The data set {self.path} has no column {key!r}: it has {dataset.column_names}.")
        if not len(dataset):
            raise ValueError(f"The data set {self.path} is empty.")
        return _HuggingFace(dataset.cast_column(self.image_key, datasets.Image(decode=True)), self)


class _HuggingFace(Source):
    def __init__(self, dataset: Any, config: HuggingFaceSource) -> None:
        self.dataset = dataset
        self.config = config

    @property
    def length(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        try:
            record = self.dataset[index]
            image = record[self.config.image_key].convert("RGB")
        except (OSError, SyntaxError, ValueError, AttributeError, Image.DecompressionBombError) as error:
            raise BrokenExampleError(f"row {index}: {error}") from error
        return Example(image, _captions(record[self.config.text_key], f"row {index}"))
