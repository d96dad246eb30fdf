"""Opening images that may be damaged, and saving them whole."""

import struct
from pathlib import Path

from PIL import Image, ImageOps

from .files import whole_file

# What Pillow raises on damaged files, seen by damaging files of every common format.
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError, MemoryError)


class UnreadableImageError(Exception):
    """An image that does not open; the message names it and says why."""


def read_image(path: Path, name: str | None = None) -> Image.Image:
    """The image as RGB, turned the way its EXIF orientation says.

    Args:
        path: of the file.
        name: what messages call it; None is the file's name.

    Raises:
        UnreadableImageError: it does not open, or not to its end.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UNREADABLE as error:
        raise UnreadableImageError(f"{name or path.name}: {error}") from error


def save_image(image: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all."""
    with whole_file(path) as partial:
        image.save(partial, format="PNG")
