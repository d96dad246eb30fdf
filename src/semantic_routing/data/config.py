"""The config's section of images and captions."""

from typing import Annotated, Literal

from pydantic import Field, GetJsonSchemaHandler, NonNegativeInt, PlainValidator, PositiveInt, SerializeAsAny
from pydantic_core import CoreSchema

from ..io.files import JsonObject
from ..io.section import Section
from .sources import SOURCES, SourceConfig
from .stream import WINDOW

Side = Annotated[int, Field(ge=1, le=16384)]
Share = Annotated[float, Field(ge=0, le=1)]


def _choose(value: object) -> SourceConfig:
    """Checks the options of a source by the class that has its name now: a user's file may have registered it."""
    if isinstance(value, SourceConfig):
        return value
    name = value.get("source") if isinstance(value, dict) else None
    if isinstance(name, str) and name in SOURCES:
        return SOURCES.find(name).model_validate(value)
    # Refused by the base class: it is no mapping, has no name, or one that nobody registered.
    return SourceConfig.model_validate({"source": name} if name is not None else value)


class _AnySource:
    """In the schema: the options of each registered source, told apart by its name."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonObject:
        choices = []
        for name, kind in SOURCES.items():
            options = dict(handler.resolve_ref_schema(handler(kind.__pydantic_core_schema__)))
            said = options["properties"]["source"].get("description")
            named = {"const": name, **({"description": said} if said else {})}
            options["properties"] = {**options["properties"], "source": named}
            options.pop("required", None)
            choices.append(options)
        return {"anyOf": choices}


AnySource = Annotated[SerializeAsAny[SourceConfig], PlainValidator(_choose), _AnySource()]
"""A source's section, by the class that is registered under its name."""


class DataConfig(Section):
    """Images and captions."""

    source: AnySource = Field(description="where they come from: its name under `source`, and its options")
    image_size: PositiveInt = Field(le=16384, description="pixels a side; of buckets: of the square of their area")
    buckets: Literal["auto"] | list[tuple[Side, Side]] | None = Field(
        None,
        min_length=1,
        description="sizes, [width, height] in pixels, of which each picture gets the nearest in shape; auto: those of "
        "the area of a square; None crops all to the square",
    )
    bucket_step: Side | None = Field(None, description="pixels by which sides of auto grow; None is image_size / 16")
    shuffle_window: PositiveInt = Field(
        WINDOW, le=2**31, description="examples permuted together, where the data lies in shards; these are permuted"
    )
    caption_dropout: Share = Field(0.1, description="share of captions emptied for classifier-free guidance")
    original_caption_rate: Share = Field(0.0, description="share that keeps the caption which a newer one replaced")
    random_crop: bool = Field(False, description="crop anywhere, and not at the center")
    horizontal_flip: bool = Field(False, description="makes captions with left and right wrong")
    num_workers: NonNegativeInt = Field(
        0, le=1024, description="processes that load images; 0 loads in the training process"
    )
    max_broken: Share = Field(0.01, description="share of broken examples past which the run stops")
