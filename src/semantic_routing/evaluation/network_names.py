"""Networks of others, named by an option of the command: found before anything long starts, or told how to get them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download


@contextmanager
def named_by(option: str, name: str) -> Iterator[None]:
    """Makes one sentence of a network that cannot be loaded, with the command that brings it. Raises ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error)
        why = text.strip().splitlines()[0].rstrip(".") if text.strip() else type(error).__name__
        bring = (
            f"`hf download {name}` brings it where there is a network, and {option} also takes a folder"
            if not Path(name).is_dir()
            else "a folder that `save_pretrained` wrote, or a hub name, is wanted"
        )
        raise ValueError(f"{option} {name} cannot be loaded; {bring} ({why}).") from error


def check_found(option: str, name: str) -> None:
    """Looks for a network's config, in a folder, in the cache or on the hub. Raises ValueError where there is none."""
    with named_by(option, name):
        if not Path(name).is_dir():
            hf_hub_download(name, "config.json")
        elif not (Path(name) / "config.json").is_file():
            raise FileNotFoundError(f"{name} has no config.json")
