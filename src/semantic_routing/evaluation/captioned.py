"""Pictures with a true caption and, where there are some, false ones that differ from it in a single claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..data import BrokenExampleError, ExampleStream, FolderSource
from ..io.files import JsonObject
from ..scenes import Wording, edits, render, sample_scene, worded
from .result import Tally

Pixels = Float[Tensor, "3 height width"]

SEED = 27182
"""Of the streams of scenes that are measured."""


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture and what is said of it.

    Args:
        name: unlike all others; its noise follows from it.
        skill: what the caption exercises; results are given by skill.
        pixels: the picture, in [−1, 1].
        caption: true of it.
        edits: captions that are not, by what was changed, such as "color".

    Raises:
        ValueError: an edit leaves the caption as it is.
    """

    name: str
    skill: str
    pixels: Pixels
    caption: str
    edits: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, edit in self.edits.items():
            if edit == self.caption:
                raise ValueError(f"The edit {kind!r} of {self.name} leaves the caption unchanged: {edit!r}.")


def scene_pictures(
    skills: Sequence[str],
    count: int,
    split: str,
    size: int,
    spacing: Mapping[str, int],
    edited: bool = True,
    wording: Wording = "sentence",
) -> list[CaptionedPicture]:
    """`count` pictures of each skill, the same ones whatever other skills are chosen.

    Args:
        skills: of the embedded world.
        count: pictures a skill.
        split: "train", "unseen" or "held-out"; see `sample_scene`.
        size: pixels a side.
        spacing: where objects lie, by the names of `sample_scene`'s arguments; a model knows what it was trained on.
        edited: make false captions, too; see `scenes.edits`.
        wording: of the captions.

    Raises:
        ValueError: edits are wanted of captions that are no sentences.
    """
    if edited and wording != "sentence":
        raise ValueError(f"Only sentences can be edited, and the model reads {wording}: ask for no heard (--no-heard).")
    found = []
    for skill in skills:
        for index in range(count):
            sample = sample_scene(SEED, index, split, [skill], **spacing)
            pixels = as_pixels(render(sample.scene, size))
            false = {edit.kind: edit.caption for edit in edits(sample)} if edited else {}
            caption = worded(wording, sample.caption, sample.claims)
            found.append(CaptionedPicture(f"{skill}-{index}", skill, pixels, caption, false))
    return found


def folder_pictures(path: Path, count: int, size: int, tally: Tally) -> list[CaptionedPicture]:
    """The first `count` pictures of each skill of a JSON list or of JSON lines.

    A record is {"image": path, "text": caption} and perhaps "skill" and "edits", a dictionary of false captions by what
    was changed. Where there are several captions, the first one is taken.

    Args:
        path: the file; paths of images start from its folder.
        count: the most a skill.
        size: pixels a side; pictures are resized and cropped as in training.
        tally: takes note of records that cannot be read.

    Raises:
        ValueError: there is nothing to read, or no record can be read.
    """
    images = FolderSource(source="json", path=path).open(size, 0)
    stream, random = ExampleStream(images, size, 0), np.random.default_rng(0)  # it crops at the center
    found: list[CaptionedPicture] = []
    counts: dict[str, int] = {}
    for index, record in enumerate(map(images.record, range(images.length))):
        skill = str(record.get("skill", "all"))
        if counts.get(skill, 0) == count:
            continue
        try:
            image, captions, _ = images[index]
        except BrokenExampleError as error:
            tally.problem("unreadable records", str(error))
            continue
        pixels = stream.transform(image, random)
        found.append(CaptionedPicture(f"record {index}", skill, pixels, captions[0], _edits(record, index)))
        counts[skill] = counts.get(skill, 0) + 1
    if not found:
        raise ValueError(f"No record of {path} has both a caption and a picture that opens: {tally.describe()}.")
    return found


def _edits(record: JsonObject, index: int) -> dict[str, str]:
    edits = record.get("edits", {})
    if not isinstance(edits, dict) or not all(isinstance(edit, str) for edit in edits.values()):
        raise ValueError(f"Record {index} has edits {edits!r}, not a dictionary of captions by what was changed.")
    return edits


def as_pixels(picture: UInt8[np.ndarray, "height width 3"]) -> Pixels:
    """Bytes as channels in [−1, 1]."""
    return torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1
