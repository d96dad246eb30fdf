"""Every image that opens shows what it shows elsewhere; every other one is one sentence, and soon."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semantic_routing.io import images
from semantic_routing.io.images import UnreadableImageError, read_image

DEEP = np.array([[0, 32768, 65535]])


def first_row(path: Path) -> list[list[int]]:
    return np.array(read_image(path))[0].tolist()


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    for name in ("a.png", "a.tiff"):
        Image.fromarray(DEEP.astype(np.uint16)).save(tmp_path / name)
        assert first_row(tmp_path / name) == [[0, 0, 0], [127, 127, 127], [255, 255, 255]]


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    """And not the color that a file keeps where nobody sees it."""
    path = tmp_path / "a.png"
    for alpha, seen in ((0, [255, 255, 255]), (128, [255, 127, 127]), (255, [255, 0, 0])):
        Image.new("RGBA", (1, 1), (255, 0, 0, alpha)).save(path)
        assert first_row(path) == [seen]
    Image.new("RGB", (1, 1), "red").save(path, transparency=(255, 0, 0))
    assert first_row(path) == [[255, 255, 255]]
    Image.new("LA", (1, 1), (0, 0)).save(path)
    assert first_row(path) == [[255, 255, 255]]


def loop(path: Path) -> None:
    path.symlink_to(path)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "floats.tiff": (lambda path: Image.fromarray(DEEP.astype(np.float32)).save(path), "mode F have 32 bits and no"),
    "integers.tiff": (lambda path: Image.fromarray(DEEP.astype(np.int32)).save(path), "mode I have 32 bits and no"),
    "narrow.png": (lambda path: Image.new("L", (1, 10000)).save(path), "1 x 10000 pixels are narrower than 1 : 32"),
    "pipe.png": (os.mkfifo, "it is a directory or a device, not a file"),
    "loop.png": (loop, "symbolic links"),
    "empty.png": (Path.touch, "cannot identify image file"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_picture_is_one_sentence(tmp_path: Path, name: str) -> None:
    make, sentence = UNREADABLE[name]
    make(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=sentence):
        read_image(tmp_path / name)


@pytest.mark.parametrize("error", [RuntimeError("AVIF"), MemoryError(), IndexError(), EOFError("cut")])
def test_a_decoder_may_raise_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(images.Image, "open", fail)
    with pytest.raises(UnreadableImageError, match=f"a.png: {error or type(error).__name__}"):
        read_image(tmp_path / "a.png")
