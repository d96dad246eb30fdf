"""Where the presets and the demo model lie: beside the package in a clone, inside it when installed from a wheel."""

from pathlib import Path

DEMO = "demo"
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


def resolve_pipeline(name: str) -> str:
    """The folder or hub name that a pipeline's name stands for.

    `demo` is the demo model that comes with the project, unless a folder of that name lies here.
    """
    return str(resource(DEMO)) if name == DEMO and not Path(name).is_dir() else name
