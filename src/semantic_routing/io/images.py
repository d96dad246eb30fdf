"""Opening images that may be damaged, and saving them whole."""

from pathlib import Path

from PIL import Image, ImageOps

from .files import whole_file

MAX_ASPECT = 32
"""Of the sides of an image: scaled by its short side, a narrower one would fill the memory."""


class UnreadableImageError(Exception):
    """An image that does not open; the message names it and says why."""


def read_image(path: Path, name: str | None = None) -> Image.Image:
    """The image as RGB, turned the way its EXIF orientation says.

    Args:
        path: of the file.
        name: what messages call it; None is the file's name.

    Raises:
        UnreadableImageError: it does not open, or not to its end, or its pixels have no agreed meaning as RGB.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
            raise ValueError("it is a directory or a device, not a file")
        with Image.open(path) as image:
            return to_rgb(image)
    # Pillow's decoders raise about anything on damaged files.
    except Exception as error:
        raise UnreadableImageError(f"{name or path.name}: {error or type(error).__name__}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB, turned the way its EXIF orientation says, on white where it is transparent.

    Raises:
        ValueError: it is too narrow, or its pixels have 32 bits, of which the range is not known.
    """
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels are narrower than 1 : {MAX_ASPECT}")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have 32 bits and no agreed range")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return upright.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return upright.convert("RGB")


def save_image(image: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all."""
    with whole_file(path) as partial:
        image.save(partial, format="PNG")
