"""A part of a config: typed keys, and mistakes that are named by the key's path."""

from collections.abc import Collection, Iterator
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from .files import JsonObject
from .messages import brief

Dtype = Literal["float32", "bfloat16", "float16"]

LONGEST_TEXT = 10_000  # characters; of a name, libraries would repeat all of them
MOST_MISTAKES = 10  # that one message names


class Section(BaseModel):
    """A part of a config; it cannot be changed once it is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=LONGEST_TEXT)


AnySection = TypeVar("AnySection", bound=Section)


class Registered:
    """Of a field: a name of `registry`, which is asked each time a config is checked or its schema is made."""

    def __init__(self, registry: Collection[str]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonObject:
        return {**handler(schema), "enum": list(self.registry)}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(f"expected one of {', '.join(self.registry)}")
        return name


def check_section(section: type[AnySection], values: object, name: str) -> AnySection:
    """Checks values that a user wrote.

    Args:
        section: what they shall be.
        values: of its keys.
        name: of the file that they come from.

    Raises:
        ValueError: one line that names each mistake by the path of its key, with the value seen.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        mistakes = [_describe(item, values) for item in error.errors()]
        more = [f"and {len(mistakes) - MOST_MISTAKES} more"] if len(mistakes) > MOST_MISTAKES else []
        raise ValueError(f"{name}: " + "; ".join(mistakes[:MOST_MISTAKES] + more)) from error


def _describe(error: ErrorDetails, values: object) -> str:
    where = ".".join(part if len(part) < 80 else brief(part) for part in _key_path(error["loc"], values))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("missing", "extra_forbidden"):
        return f"{where}: {'unknown key' if error['type'] == 'extra_forbidden' else 'this key is missing'}"
    whole_section = error["type"] == "value_error" and isinstance(error["input"], dict)
    return message if whole_section else f"{where}: {message}, not {brief(error['input'])}"


def _key_path(location: tuple[int | str, ...], values: object) -> Iterator[str]:
    """The keys of a location as the user wrote them: pydantic also names the branch of a union that it tried."""
    for number, part in enumerate(location, start=1):
        if isinstance(values, dict) and (part in values or number == len(location)):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part] if part < len(values) else None  # an item may be what is missing
        else:
            continue
        yield str(part)
