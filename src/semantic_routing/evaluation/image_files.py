"""Where a benchmark's images lie: in numbered folders, as GenEval has them, or in one flat folder."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..io.files import JsonObject, read_json, write_json, write_text

_DIGITS = re.compile(r"[0-9]+")
_FLAT = re.compile(r"([0-9]+)(?:_sample_([0-9]+))?\.(?:png|jpg|jpeg|webp)")
_SAMPLE = re.compile(r"([0-9]+)\.png")


class Place(NamedTuple):
    """Which image: the index of its prompt, and its number among the images of that prompt."""

    prompt: int
    sample: int


class FoundImages(NamedTuple):
    """Image files by place, and the names of files that do not belong to the benchmark."""

    paths: dict[Place, Path]
    others: list[str]


class ImageFiles(ABC):
    """Names of image files in a folder, when they are written and when they are looked for."""

    @abstractmethod
    def name(self, place: Place) -> str:
        """The path, relative to the folder, under which an image is written."""

    @abstractmethod
    def _listed(self, folder: Path) -> Iterator[tuple[Place | None, Path]]:
        """All files in the order of their names, each with its place, or None if the name is no image's."""

    def find(self, folder: Path, prompts: Collection[int], images_per_prompt: int) -> FoundImages:
        """Looks for images, whatever zeros the numbers in their names begin with.

        Args:
            folder: where to look.
            prompts: indices of the benchmark's prompts.
            images_per_prompt: further images of a prompt count as other files.

        Raises:
            ValueError: there is no such folder, or its images belong to other prompts.
        """
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder}; sample first, or name the images with --images.")
        self.check_records(folder)
        found: dict[Place, Path] = {}
        others = []
        for place, path in self._listed(folder):
            wanted = place is not None and place.prompt in prompts and place.sample < images_per_prompt
            if place is None or not wanted or place in found or not path.is_file():
                others.append(str(path.relative_to(folder)))
            else:
                found[place] = path
        return FoundImages(found, others)

    def write_records(self, folder: Path) -> None:  # noqa: B027 - a flat folder has none
        """Writes what lies beside the images."""

    def check_records(self, folder: Path) -> None:  # noqa: B027 - a flat folder has none
        """Refuses images that were made for other prompts, where their records say so."""


class NumberedFolders(ImageFiles):
    """GenEval's folders: `00000/samples/00000.png` with the prompt's record in `00000/metadata.jsonl`.

    Args:
        records: each prompt's record, with the prompt itself under "prompt".
    """

    def __init__(self, records: Mapping[int, JsonObject]) -> None:
        self.records = records

    def name(self, place: Place) -> str:
        """`INDEX/samples/SAMPLE.png`, five digits each."""
        return f"{place.prompt:05d}/samples/{place.sample:05d}.png"

    def _listed(self, folder: Path) -> Iterator[tuple[Place | None, Path]]:
        for prompt in sorted(folder.iterdir()):
            if not (prompt.is_dir() and _DIGITS.fullmatch(prompt.name)):
                yield None, prompt
                continue
            samples = prompt / "samples"
            for path in sorted(samples.iterdir()) if samples.is_dir() else ():
                match = _SAMPLE.fullmatch(path.name)
                yield (Place(int(prompt.name), int(match[1])) if match else None), path

    def write_records(self, folder: Path) -> None:
        """Writes each prompt's record, one JSON object, as scorers expect it."""
        for index, record in self.records.items():
            write_text(_record_path(folder, index), json.dumps(record) + "\n")

    def check_records(self, folder: Path) -> None:
        """Compares the prompts in the records with the benchmark's own."""
        for index, record in self.records.items():
            path = _record_path(folder, index)
            if not path.is_file():
                continue
            found = read_json(path)
            prompt = found.get("prompt") if isinstance(found, dict) else found
            if prompt != record["prompt"]:
                raise ValueError(
                    f"{path} is for the prompt {prompt!r}; the benchmark has {record['prompt']!r} there, so these "
                    "images belong to other prompts."
                )


def _record_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}" / "metadata.jsonl"


class FlatFolder(ImageFiles):
    """One folder of `NAME_sample_I.png`; `NAME.jpg` and the like, made by others, count as sample 0.

    Args:
        names: by prompt index, the number in the files' names, perhaps with leading zeros.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names

    def name(self, place: Place) -> str:
        """`NAME_sample_I.png`."""
        return f"{self.names[place.prompt]}_sample_{place.sample}.png"

    def _listed(self, folder: Path) -> Iterator[tuple[Place | None, Path]]:
        for path in sorted(folder.iterdir()):
            match = _FLAT.fullmatch(path.name)
            yield (Place(int(match[1]), int(match[2] or 0)) if match else None), path


class PromptNamedFiles(FlatFolder):
    """A flat folder, or GenEval 2's own form: a JSON object {prompt: file path}, of which one image a prompt is known.

    Args:
        prompts: by index.
    """

    record = "images.json"

    def __init__(self, prompts: Mapping[int, str]) -> None:
        super().__init__({index: str(index) for index in prompts})
        self.prompts = prompts

    def find(self, folder: Path, prompts: Collection[int], images_per_prompt: int) -> FoundImages:
        """Looks in a folder, or for the files that a JSON object names; relative paths start from its folder.

        Raises:
            ValueError: there is no such folder, or the file holds something else.
        """
        if not folder.is_file():
            found = super().find(folder, prompts, images_per_prompt)
            return found._replace(others=[name for name in found.others if name != self.record])
        named = read_json(folder)
        if not isinstance(named, dict) or not all(isinstance(path, str) for path in named.values()):
            raise ValueError(f"{folder} is no JSON object of image paths by prompt.")
        paths = {prompt: folder.parent / path for prompt, path in named.items()}
        numbers = {self.prompts[index]: index for index in prompts}
        known = {Place(numbers[prompt], 0): path for prompt, path in paths.items() if prompt in numbers}
        others = [f"{paths[prompt]} of an unknown prompt" for prompt in paths if prompt not in numbers]
        return FoundImages({place: path for place, path in known.items() if path.is_file()}, others)

    def write_records(self, folder: Path) -> None:
        """Writes the JSON object for the official script."""
        paths = {prompt: self.name(Place(index, 0)) for index, prompt in self.prompts.items()}
        write_json(folder / self.record, {prompt: str((folder / name).resolve()) for prompt, name in paths.items()})
