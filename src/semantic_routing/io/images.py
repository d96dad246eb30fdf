"""Opening images that may be damaged, and saving them whole."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from .files import whole_file

MAX_ASPECT = 32
"""Of the sides of an image: scaled by its short side, a narrower one would fill the memory."""

FRAME, REST = 80, 2000  # milliseconds of an animation's frames, and of its last one


class UnreadableImageError(Exception):
    """An image that does not open; the message names it and says why."""


ORIENTATION = 0x0112  # of EXIF; from 5 on the sides are swapped


def read_image(file: Path | IO[bytes], name: str | None = None) -> Image.Image:
    """The image as RGB, turned the way its EXIF orientation says.

    Args:
        file: its path, or the open file.
        name: what messages call it; None is the file's name.

    Raises:
        UnreadableImageError: it does not open, or not to its end, or its pixels have no agreed meaning as RGB.
    """
    try:
        # Opening a pipe would wait for its other end.
        if isinstance(file, Path) and file.exists() and not file.is_file():
            raise ValueError("it is a directory or a device, not a file")
        with Image.open(file) as image:
            return to_rgb(image)
    # Pillow's decoders raise about anything on damaged files.
    except Exception as error:
        raise UnreadableImageError(f"{name or Path(file.name).name}: {error or type(error).__name__}") from error


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


def image_size(file: Path | IO[bytes], name: str) -> tuple[int, int]:
    """Width and height that `read_image` would give, from the head of the file alone.

    Raises:
        UnreadableImageError: it does not open; damage behind the head goes unnoticed.
    """
    try:
        with Image.open(file) as image:
            # Asked for where there is none, a PNG would be decoded to its end.
            turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except Exception as error:  # as in `read_image`
        raise UnreadableImageError(f"{name}: {error}") from error


def encode_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def save_image(image: Image.Image, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a PNG whole or not at all.

    Args:
        image: to write.
        path: of the file.
        metadata: texts by name that are kept in the file; `Image.open(path).text` gives them back.
    """
    with whole_file(path) as partial:
        image.save(partial, format="PNG", pnginfo=_png_texts(metadata))


def save_animation(frames: Sequence[Image.Image], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes an animated PNG that repeats for ever and rests at its last frame.

    Args:
        frames: at least one, all of one size.
        path: of the file.
        metadata: as for `save_image`.
    """
    durations = [FRAME] * (len(frames) - 1) + [REST]
    with whole_file(path) as partial:
        frames[0].save(
            partial,
            format="PNG",
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            pnginfo=_png_texts(metadata),
        )


def _png_texts(metadata: Mapping[str, str] | None) -> PngInfo:
    texts = PngInfo()
    for name, text in (metadata or {}).items():
        texts.add_itxt(name, text)
    return texts
