"""The JSON schema of config files, for editors."""

from ..io.files import JsonObject
from .config import Config


def config_schema() -> JsonObject:
    """The schema of a YAML file as a user writes it, with the names that are registered now.

    A file may extend another, so no key is required of it.
    """
    schema = Config.model_json_schema()
    schema["title"] = "semantic-routing config"
    extends = {"type": "string", "description": "file or preset that this one is merged over"}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    return schema
