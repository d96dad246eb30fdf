"""Where the presets and the demo model lie: beside the package in a clone, inside it when installed from a wheel."""

from pathlib import Path

_PLACES = (Path(__file__).parents[3], Path(__file__).parents[1])


def resource(name: str) -> Path:
    """The folder `configs` or `demo`.

    Raises:
        ValueError: this installation does not have it.
    """
    for place in _PLACES:
        if (place / name).is_dir():
            return place / name
    raise ValueError(f"This installation has no folder {name!r}; it comes with the repository and its wheel.")
