"""Versions of Python and of the libraries that a result depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "semantic-routing",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
)


def versions() -> dict[str, str]:
    """By package; one that is not installed says so."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
