"""Pictures keep their pixels, texts stay in their places, and files keep what they say."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from semantic_routing.io.images import save_animation, save_image
from semantic_routing.reporting.figures import DPI, raster
from semantic_routing.reporting.picture_grid import (
    FONT,
    FONT_SIZE,
    LARGE,
    MOST_LINES,
    SMALL,
    Row,
    fit,
    picture_grid,
    wrap,
)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def find(sheet: Image.Image, picture: Image.Image) -> tuple[int, int]:
    """The one place of a picture on a sheet."""
    whole, part = np.asarray(sheet).astype(int), np.asarray(picture).astype(int)
    first = np.argwhere((whole == part[0, 0]).all(-1))
    height, width = part.shape[:2]
    (place,) = [(y, x) for y, x in first if np.array_equal(whole[y : y + height, x : x + width], part)]
    return place


def test_small_pictures_are_enlarged_by_whole_numbers_without_smoothing() -> None:
    picture = noise(20, 30)
    large = fit(picture)
    assert large.size == (100, 150)
    assert np.array_equal(np.asarray(large)[::5, ::5], np.asarray(picture))
    assert max(fit(noise(SMALL - 1, 10)).size) >= SMALL
    assert fit(noise(SMALL, SMALL)).size == (SMALL, SMALL)
    assert fit(noise(2 * LARGE, LARGE)).size == (LARGE, LARGE // 2)


def test_every_picture_is_there_once_with_a_gap_and_in_reading_order() -> None:
    rows = [[noise(32, 32, seed=10 * row + column) for column in range(3)] for row in range(2)]
    captions = ["short", "a caption that is too long for one line of a picture's width", ""]
    sheet = picture_grid([Row(rows[0], "first", captions), Row(rows[1][:2], "second")])
    places = [find(sheet, fit(picture)) for picture in (*rows[0], *rows[1][:2])]
    ys, xs = zip(*places, strict=True)
    assert len({*ys[:3]}) == len({*ys[3:]}) == 1
    assert ys[3] > ys[0] + 128
    assert [x - xs[0] for x in xs[:3]] == [0, 136, 272]
    assert xs[3:] == xs[:2]


def test_texts_are_drawn_beside_pictures_and_not_on_them() -> None:
    blank = Image.new("RGB", (128, 128), "white")
    bare = np.asarray(picture_grid([Row([blank, blank])]))
    assert (bare == 255).all()
    labeled = picture_grid([Row([blank, blank], "W" * 500, ["word " * 100, "x"])])
    assert labeled.height > bare.shape[0]
    dark = np.argwhere(np.asarray(labeled.convert("L")) < 128)
    below = labeled.height - 128 - 20
    assert len(dark)
    assert dark[:, 0].max() < below
    assert dark[:, 1].min() >= 8
    assert dark[:, 1].max() < labeled.width - 8


@pytest.mark.parametrize("text", ["a red circle", "word " * 100, "W" * 300, "W" * 300 + " and more " * 30, ""])
def test_lines_fit_their_width(text: str) -> None:
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    lines = wrap(text, font, 130)
    assert all(font.getlength(line) <= 130 for line in lines)
    assert len(lines) <= MOST_LINES
    whole = " ".join(lines) == " ".join(text.split())
    assert whole or "…" in " ".join(lines)


def test_a_canvas_of_a_picture_is_the_picture(tmp_path) -> None:
    picture = noise(300, 200)
    raster(picture).savefig(tmp_path / "figure.png", dpi=DPI)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")), np.asarray(picture))


def test_files_keep_their_texts_and_animations_their_frames(tmp_path) -> None:
    texts = {"prompt": "ein Äpfel → ☃", "seed": "3"}
    frames = [noise(16, 16, seed) for seed in range(3)]
    save_image(frames[0], tmp_path / "one.png", texts)
    save_animation(frames, tmp_path / "steps.png", texts)
    for name, count in (("one.png", 1), ("steps.png", 3)):
        with Image.open(tmp_path / name) as image:
            assert {key: image.text[key] for key in texts} == texts
            assert getattr(image, "n_frames", 1) == count
            image.seek(count - 1)
            assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(frames[count - 1]))
