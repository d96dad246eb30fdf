"""GenEval's image folders, which scenes uses too: a numbered folder a prompt with its record and its samples.

images/00000/metadata.jsonl
images/00000/samples/00000.png
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..io.files import write_text
from .sampling import Job, is_main_process

_DIGITS = re.compile(r"[0-9]+")
_FLAT = re.compile(r"([0-9]+)(?:_sample_([0-9]+))?\.(?:png|jpg|jpeg|webp)")
_SAMPLE = re.compile(r"([0-9]+)\.png")


class Samples(NamedTuple):
    """Image files by (prompt index, sample index), and names of what does not belong there."""

    paths: dict[tuple[int, int], Path]
    others: list[str]


def make_jobs(images: Path, prompts: Mapping[int, str], images_per_prompt: int) -> list[Job]:
    """All images of prompts by index, those of a prompt together."""
    return [
        Job(images / f"{index:05d}" / "samples" / f"{sample:05d}.png", prompt, index, sample)
        for index, prompt in prompts.items()
        for sample in range(images_per_prompt)
    ]


def write_records(images: Path, records: Mapping[int, dict[str, Any]]) -> None:
    """Writes each prompt's record, one JSON object, as scorers expect it; of several processes one does."""
    if not is_main_process():
        return
    for index, record in records.items():
        write_text(images / f"{index:05d}" / "metadata.jsonl", json.dumps(record) + "\n")


def find_samples(images: Path, indices: Iterable[int], images_per_prompt: int) -> Samples:
    """Looks for the expected images under any width of number, and for files that are not expected.

    Raises:
        ValueError: there is no such folder.
    """
    if not images.is_dir():
        raise ValueError(f"There is no folder {images}; sample first, or name the images with --images.")
    found: dict[tuple[int, int], Path] = {}
    others = []
    wanted = set(indices)
    for place, path in _numbered(images):
        if place is None or place in found or place[0] not in wanted or place[1] >= images_per_prompt:
            others.append(str(path.relative_to(images)))
        else:
            found[place] = path
    return Samples(found, others)


def _numbered(images: Path) -> Iterator[tuple[tuple[int, int] | None, Path]]:
    """Folders and samples in the order of their names, with the numbers in them or None."""
    for folder in sorted(images.iterdir()):
        if not (folder.is_dir() and _DIGITS.fullmatch(folder.name)):
            yield None, folder
            continue
        samples = folder / "samples"
        for path in sorted(samples.iterdir()) if samples.is_dir() else ():
            match = _SAMPLE.fullmatch(path.name)
            yield (int(folder.name), int(match[1])) if match else None, path


def sample_name(index: int, sample: int) -> str:
    """How a sample is called in reports."""
    return f"{index:05d}/samples/{sample:05d}.png"


def flat_jobs(images: Path, prompts: Mapping[int, tuple[str, str]], images_per_prompt: int) -> list[Job]:
    """All images as `NAME_sample_I.png` in one folder; `prompts` are (name, prompt) by index."""
    return [
        Job(images / f"{name}_sample_{sample}.png", prompt, index, sample)
        for index, (name, prompt) in prompts.items()
        for sample in range(images_per_prompt)
    ]


def find_flat(images: Path, indices: Iterable[int], images_per_prompt: int) -> Samples:
    """Looks for `NUMBER[_sample_I].png|jpg|jpeg|webp` in one folder, whatever zeros the numbers begin with.

    Raises:
        ValueError: there is no such folder.
    """
    if not images.is_dir():
        raise ValueError(f"There is no folder {images}; sample first, or name the images with --images.")
    found: dict[tuple[int, int], Path] = {}
    others = []
    wanted = set(indices)
    for path in sorted(images.iterdir()):
        match = _FLAT.fullmatch(path.name)
        place = (int(match[1]), int(match[2] or 0)) if match else None
        if place is None or place in found or place[0] not in wanted or place[1] >= images_per_prompt:
            others.append(path.name)
        else:
            found[place] = path
    return Samples(found, others)
