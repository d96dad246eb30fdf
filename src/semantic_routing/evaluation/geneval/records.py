"""GenEval's prompt file: what each image must show."""

import json
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from ...io.files import JsonObject, sha256

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
OFFICIAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of `evaluation_metadata.jsonl`, 553 prompts."""

# COCO's 80 classes in their contiguous order; 64, 65 and 66 are GenEval's own names.
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote"),
    *("computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""Candidates in the order that ties and tallies follow."""
RELATIONS = ("left of", "right of", "above", "below")


class Clause(BaseModel):
    """What must be seen, or must not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(alias="class")
    count: PositiveInt
    color: str | None = None
    position: tuple[Literal[RELATIONS], Annotated[int, Field(ge=0)]] | None = None  # type: ignore[valid-type]
    """A relation to the instances of an earlier clause of `include`, by its number."""

    @field_validator("label")
    @classmethod
    def _known_class(cls, value: str) -> str:
        if value not in CLASSES:
            raise ValueError(f"{value!r} is not one of the 80 classes")
        return value

    @field_validator("color")
    @classmethod
    def _known_color(cls, value: str | None) -> str | None:
        if value is not None and value not in COLORS:
            raise ValueError(f"{value!r} is not one of {', '.join(COLORS)}")
        return value


class Record(BaseModel):
    """A line of the prompt file."""

    model_config = ConfigDict(frozen=True)

    tag: str
    prompt: str
    include: list[Clause] = []
    exclude: list[Clause] = []

    @model_validator(mode="after")
    def _targets_come_first(self) -> "Record":
        for number, clause in enumerate(self.include):
            if clause.position is not None and clause.position[1] >= number:
                raise ValueError(f"include {number} is placed by include {clause.position[1]}, which is no earlier one")
        return self


class PromptFile(NamedTuple):
    """The records as parsed and as they stand in the file, and the file's SHA-256."""

    records: list[Record]
    raw: list[JsonObject]
    sha256: str


def read_prompts(path: Path) -> PromptFile:
    """Reads `evaluation_metadata.jsonl`; a record's number is its line's.

    Raises:
        ValueError: naming the first line that is not a record.
    """
    data = path.read_bytes()
    records, raw = [], []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines()):
        if not line.strip():
            continue
        try:
            raw.append(json.loads(line))
            records.append(Record.model_validate(raw[-1]))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number + 1}: not a JSON object ({error.msg}).") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{path}, line {number + 1}: {where}: {message}.".replace(": : ", ": ")) from error
    if not records:
        raise ValueError(f"{path} holds no prompts; GenEval's evaluation_metadata.jsonl is expected.")
    return PromptFile(records, raw, sha256(data))
