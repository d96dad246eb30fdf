"""Where images and captions come from. A new source is a `SourceConfig` that is registered in `SOURCES`."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from jaxtyping import Float
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor

from ..io.files import JsonObject
from ..io.images import UnreadableImageError, encode_png, image_size, read_image, to_rgb
from ..io.jsonl import work_key
from ..io.messages import brief
from ..io.registry import Registry
from ..io.section import Section
from ..scenes import HARD_SKILLS, SKILLS, CaptionPool, Spacing, Wording, render, sample_scene, worded

if TYPE_CHECKING:
    import datasets

Features = Float[Tensor, "layers text_tokens text_channels"]

FIRST = 100  # records whose keys are looked at when a data set is opened


class BrokenExampleError(Exception):
    """An image or record that cannot be read; the message names it and says why."""


class Example(NamedTuple):
    """One image, the captions to draw from, and those that they replaced, where `sroute caption` wrote new ones.

    In place of an image there may be its latent's posterior, `mean_and_log_variance latent_height latent_width`.
    """

    image: Image.Image | Tensor
    captions: Sequence[str]
    originals: Sequence[str] = ()


class ImageFile(NamedTuple):
    """The bytes of an image file and the suffix that says their format, without a dot."""

    suffix: str
    content: bytes


class Source(ABC):
    """Examples by index.

    Only `length` and `__getitem__` must be there. The rest is for sources that know more.
    """

    @property
    @abstractmethod
    def length(self) -> int | None:
        """How many examples there are; None for an endless source."""

    @property
    def has_originals(self) -> bool:
        """Whether any example keeps captions that newer ones replaced."""
        return False

    @property
    def all_captions(self) -> Sequence[str] | None:
        """All captions of all examples, where they are few enough to be encoded before training; None elsewhere."""
        return None

    @property
    def shards(self) -> Sequence[int] | None:
        """How many neighboring examples lie in each shard, where these are read best one after another."""
        return None

    @property
    def left_out(self) -> Sequence[str]:
        """What was found to be broken when the source was opened, and has no index."""
        return ()

    @property
    def identity(self) -> str | None:
        """What changes when the examples do, so that what is found out about them is remembered; None for unknown."""
        return None

    @property
    def has_features(self) -> bool:
        """Whether features of the captions were computed ahead."""
        return False

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """The example at `index`; raises `BrokenExampleError` where it cannot be read."""

    def picture_size(self, index: int) -> tuple[int, int]:
        """Width and height of a picture in pixels; raises `BrokenExampleError` where it cannot be read."""
        image = self[index].image
        return image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])

    def image_file(self, index: int) -> ImageFile:
        """A picture as a file, as it came where it came as one; raises `BrokenExampleError` where it cannot be read."""
        image = self[index].image
        if isinstance(image, Tensor):
            raise BrokenExampleError(f"example {index}: latents are no picture")
        return ImageFile("png", encode_png(image))

    def features(self, index: int, caption: str) -> Features:
        """The features of one of an example's captions, or of the empty one; only where `has_features`."""
        raise NotImplementedError


class SourceConfig(Section):
    """Options of a source: what a config says under `data.source`.

    >>> @SOURCES.register("moons")
    ... class MoonsSource(SourceConfig):
    ...     count: int = Field(100, description="moons to draw")
    ...
    ...     def open(self, image_size: int, seed: int) -> Source: ...
    """

    source: str = Field(description="name of the source")

    @field_validator("source")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name not in SOURCES:
            raise ValueError(f"expected one of {', '.join(SOURCES)}")
        return name

    @abstractmethod
    def open(self, image_size: int, seed: int) -> Source:
        """Makes the source.

        Args:
            image_size: pixels a side that training wants; a source that reads files need not heed it.
            seed: of the run, for sources that draw at random.

        Raises:
            ValueError: there is nothing to read, or the options do not fit the data.
            OSError: a file cannot be read.
        """


SOURCES: Registry[type[SourceConfig]] = Registry("data source")


@SOURCES.register("scenes")
class ScenesSource(SourceConfig):
    """The embedded world: an endless stream of rendered scenes, of the size that training asks for."""

    source: Literal["scenes"] = Field("scenes", description="scenes, the embedded world")
    skills: list[str] = Field([], description="what captions exercise, named twice: twice as often; default: all")
    spacing: Literal[0, 1, 2, 4] = Field(
        1,
        description="of the lines on which centers of one or two objects lie, in 1/16 of the side; 0: anywhere; more "
        "is easier to learn",
    )
    crowd_spacing: Literal[0, 1, 2, 4] = Field(
        1, description="the same for three and more objects; with 4 almost all pictures of five have one layout"
    )
    captions: int | None = Field(
        None, ge=1, description="how many distinct captions to draw from, each with endless pictures; default: all"
    )
    wording: Wording = Field(
        "sentence", description="captions are sentences, or the bare claims, which leave nothing to understand"
    )

    @field_validator("skills")
    @classmethod
    def _known(cls, skills: list[str]) -> list[str]:
        for skill in skills:
            if skill not in (*SKILLS, *HARD_SKILLS):
                skills_there_are = ", ".join((*SKILLS, *HARD_SKILLS))
                raise ValueError(f"{skill!r} is not a skill of the scenes world, which are {skills_there_are}")
        return skills

    def open(self, image_size: int, seed: int) -> Source:
        """Renders one scene, so that a size too small for it is refused now."""
        source = _Scenes(image_size, seed, self)
        source[0]
        return source


class _Scenes(Source):
    length = None

    def __init__(self, image_size: int, seed: int, config: ScenesSource) -> None:
        self.image_size = image_size
        self.seed = seed
        self.skills = config.skills or SKILLS
        self.spacing = Spacing(config.spacing, config.crowd_spacing)
        self.pool = CaptionPool(config.captions, seed, self.skills, self.spacing) if config.captions else None
        self.wording = config.wording

    @property
    def all_captions(self) -> Sequence[str] | None:
        return self.pool.worded(self.wording) if self.pool else None

    def __getitem__(self, index: int) -> Example:
        if self.pool:
            sample = self.pool.sample(index)
        else:
            sample = sample_scene(self.seed, index, "train", self.skills, self.spacing.few, self.spacing.crowd)
        caption = worded(self.wording, sample.caption, sample.claims)
        return Example(Image.fromarray(render(sample.scene, self.image_size)), [caption])


@SOURCES.register("json")
class FolderSource(SourceConfig):
    """A JSON list or JSON lines of records, beside a folder of images (the reference's format)."""

    source: Literal["json"] = Field("json", description="json, records beside image files")
    path: Path = Field(description="JSON or JSONL file")
    image_root: Path | None = Field(None, description="folder that image paths start from; default: the file's")
    image_key: str = Field("image", description="key of the image's path")
    text_key: str = Field("text", description="key of the caption, or of a list of captions to draw from")
    original_text_key: str = Field("original_text", description="key of the caption that `sroute caption` replaced")

    def open(self, image_size: int, seed: int) -> "FolderImages":
        """Reads the records; images are opened when asked for."""
        images = self.images()
        _check_keys(images.records, (self.image_key, self.text_key), str(self.path))
        return images

    def images(self) -> "FolderImages":
        """Reads the records, which need not have captions yet."""
        records = _read_records(self.path)
        root = (self.image_root or self.path.parent).resolve()
        if not root.is_dir():
            raise ValueError(f"The image folder {root} does not exist.")
        return FolderImages(records, root, self)


def _read_records(path: Path) -> list[object]:
    """The records of a JSON list or of JSON lines, which are told apart by the first character."""
    if not path.exists():
        raise FileNotFoundError(f"The data set {path} does not exist.")
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        records = _parse(text, str(path))
        assert isinstance(records, list)
    else:
        # Not splitlines(): a string may hold the other separators of Unicode as they are.
        lines = enumerate(text.split("\n"), start=1)
        records = [_parse(line, f"{path}, line {number},") for number, line in lines if line.strip()]
    if not records:
        raise ValueError(f"The data set {path} is empty.")
    return records


def _check_keys(records: list[object], keys: Sequence[str], name: str) -> None:
    """Refuses keys that none of the first records has; a record among others that lacks one is broken."""
    seen = list(dict.fromkeys(key for record in records[:FIRST] if isinstance(record, dict) for key in record))
    for key in keys:
        if key not in seen:
            raise ValueError(f"The records of {name} have no key {brief(key)}: the first ones have {brief(seen)}.")


def _parse(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON: {error}.") from error


class FolderImages(Source):
    """Records and their images, made by `FolderSource.open`."""

    def __init__(self, records: list[object], root: Path, config: FolderSource) -> None:
        self.records = records
        self.root = root
        self.config = config

    @property
    def length(self) -> int:
        """Records."""
        return len(self.records)

    @property
    def has_originals(self) -> bool:
        """Whether any record has the key of originals."""
        key = self.config.original_text_key
        return any(isinstance(record, dict) and record.get(key) for record in self.records)

    def __getitem__(self, index: int) -> Example:
        image, record = self.image(index), self.record(index)
        captions = read_captions(record.get(self.config.text_key), f"record {index}")
        original = record.get(self.config.original_text_key)
        return Example(image, captions, read_captions(original, f"record {index}") if original else ())

    def record(self, index: int) -> JsonObject:
        """Record `index`; what is no JSON object has no keys."""
        record = self.records[index]
        return record if isinstance(record, dict) else {}

    @property
    def identity(self) -> str:
        """The records and the folder; that a file changed under its name goes unnoticed."""
        return work_key(records=self.records, root=str(self.root), image_key=self.config.image_key)

    def picture_size(self, index: int) -> tuple[int, int]:
        """Of the picture of a record, from the head of its file."""
        try:
            return image_size(self.path(index), self.record(index)[self.config.image_key])
        except UnreadableImageError as error:
            raise BrokenExampleError(str(error)) from error

    def image_file(self, index: int) -> ImageFile:
        """The file of a record's picture, once it is known to open."""
        self.image(index)
        path = self.path(index)
        return ImageFile(path.suffix.lower().lstrip("."), path.read_bytes())

    def image(self, index: int) -> Image.Image:
        """The image of record `index`, whether or not it has a caption."""
        try:
            return read_image(self.path(index), self.record(index)[self.config.image_key])
        except UnreadableImageError as error:
            raise BrokenExampleError(str(error)) from error

    def path(self, index: int) -> Path:
        """Where the image of record `index` lies."""
        name = self.record(index).get(self.config.image_key)
        if not isinstance(name, str):
            raise BrokenExampleError(f"record {index}: no image path under {self.config.image_key!r}")
        try:
            path = (self.root / name).resolve()
            if not path.is_relative_to(self.root):
                raise BrokenExampleError(f"record {index}: {name} lies outside of the image folder")
        except (OSError, RuntimeError, ValueError) as error:  # loops of links, or characters that no path has
            raise BrokenExampleError(f"{name}: {error}") from error
        return path


def read_captions(text: object, name: str) -> list[str]:
    """The captions that a record has under one key; raises `BrokenExampleError` where they are none."""
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise BrokenExampleError(f"{name}: the caption is {brief(text)}, not a text or a list of texts")
    return captions


@SOURCES.register("huggingface")
class HuggingFaceSource(SourceConfig):
    """A Hugging Face data set, saved to a folder (`save_to_disk`) or readable by `load_dataset`."""

    source: Literal["huggingface"] = Field("huggingface", description="huggingface, the `datasets` library")
    path: str = Field(description="folder or hub name")
    name: str | None = Field(None, description="configuration of the data set")
    split: str = Field("train", description="split to train on")
    image_key: str = Field("image", description="image column")
    text_key: str = Field("text", description="caption column, of texts or of lists of texts to draw from")

    def open(self, image_size: int, seed: int) -> Source:
        """Opens the data set memory-mapped."""
        import datasets
        import pyarrow as pa

        try:
            dataset = self._load()
        except (pa.ArrowException, datasets.exceptions.DatasetsError, json.JSONDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The data set {self.path} cannot be read: {reason}") from error
        for key in (self.image_key, self.text_key):
            if key not in dataset.column_names:
                raise ValueError(f"The data set {self.path} has no column {key!r}: it has {dataset.column_names}.")
        if not len(dataset):
            raise ValueError(f"The data set {self.path} is empty.")
        return _HuggingFace(dataset.cast_column(self.image_key, datasets.Image(decode=True)), self)

    def _load(self) -> "datasets.Dataset":
        import datasets

        if (Path(self.path) / "dataset_dict.json").is_file():
            splits = _load_from_disk(self.path)
            if self.split not in splits:
                raise ValueError(f"The data set {self.path} has no split {self.split!r}: it has {', '.join(splits)}.")
            return splits[self.split]
        if (Path(self.path) / "dataset_info.json").is_file():
            return _load_from_disk(self.path)
        return datasets.load_dataset(self.path, self.name, split=self.split)


def _load_from_disk(path: str) -> "datasets.Dataset | datasets.DatasetDict":
    import datasets

    try:
        return datasets.load_from_disk(path)
    except IndexError as error:  # where no table was saved, since there was no row
        raise ValueError(f"The data set {path} is empty.") from error


class _HuggingFace(Source):
    def __init__(self, dataset: "datasets.Dataset", config: HuggingFaceSource) -> None:
        self.dataset = dataset
        self.config = config

    @property
    def length(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        try:
            record = self.dataset[index]
            image = to_rgb(record[self.config.image_key])
        except Exception as error:  # as in `read_image`
            raise BrokenExampleError(f"row {index}: {error}") from error
        return Example(image, read_captions(record[self.config.text_key], f"row {index}"))
