"""Values from files for arguments of a class, which may be the user's own."""

import inspect
from collections.abc import Mapping

from .messages import brief


def check_arguments(kind: type, values: Mapping[str, object], name: str) -> None:
    """Checks values against the annotations of what `kind` takes; what has none is not checked.

    Args:
        kind: the class that will be called with them.
        values: by argument.
        name: of the class, for the message.

    Raises:
        ValueError: a value is of another type than its argument.
    """
    if not values:
        return
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError  # slow to import

    for argument, parameter in inspect.signature(kind, eval_str=True).parameters.items():
        if argument not in values or parameter.annotation is parameter.empty:
            continue
        try:
            TypeAdapter(parameter.annotation, config=ConfigDict(strict=True)).validate_python(values[argument])
        except PydanticSchemaGenerationError:
            continue  # a class that pydantic does not know
        except ValidationError as error:
            wanted = inspect.formatannotation(parameter.annotation).replace("collections.abc.", "")
            raise ValueError(f"{name} takes {argument} as {wanted}, not {brief(values[argument])}.") from error
