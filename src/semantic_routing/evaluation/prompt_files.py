"""Prompt files by path, or by the hub's address."""

from pathlib import Path
from typing import Annotated

from typer import Option

HUB = "hub:"
Prompts = Annotated[str, Option(help="Prompt file, or hub:OWNER/NAME/FILE for one of a data set.")]


def find_prompts(name: str) -> Path:
    """The file at a path, or of a data set: `hub:OWNER/NAME/FILE`.

    Raises:
        ValueError: there is no such file, or the address is not of that form.
        OSError: the hub cannot be reached or does not have it.
    """
    if not name.startswith(HUB):
        if not Path(name).is_file():
            raise ValueError(f"There is no prompt file {name!r}; give a path, or hub:OWNER/NAME/FILE.")
        return Path(name)
    parts = name.removeprefix(HUB).split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"The prompt file's address must be of the form hub:OWNER/NAME/FILE, not {name!r}.")
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download("/".join(parts[:2]), parts[2], repo_type="dataset"))
