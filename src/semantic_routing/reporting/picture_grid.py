"""Pictures in rows, with what they show: one look for `sroute generate`, validation sheets and reports."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont

SMALL, LARGE = 128, 512  # pixels of a picture's longer side: less is enlarged, more is reduced
GAP, MARGIN, LINE = 8, 16, 18  # pixels
TITLE, CAPTION = "black", "#555555"
FONT_SIZE = 14
LEAST_WIDTH = 400  # so that a title has room above a single picture
MOST_LINES = 4  # of one text

# Latin, Greek, Cyrillic and Arabic; characters that it lacks are drawn as boxes.
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


class Row(NamedTuple):
    """Pictures side by side; the title stands above the row, a caption above its picture."""

    pictures: Sequence[Image.Image]
    title: str = ""
    captions: Sequence[str] = ()


def picture_grid(rows: Sequence[Row]) -> Image.Image:
    """One picture of all rows, with gaps; small pictures are enlarged without smoothing.

    Args:
        rows: at least one, with at least one picture each.
    """
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    cells = [[fit(picture) for picture in row.pictures] for row in rows]
    sizes = [picture.size for row in cells for picture in row]
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    full = max(max(map(len, cells)) * (width + GAP) - GAP, LEAST_WIDTH)
    texts: list[tuple[int, int, str, str]] = []
    places: list[tuple[int, int, Image.Image]] = []
    y = MARGIN
    for row, pictures in zip(rows, cells, strict=True):
        columns = [MARGIN + number * (width + GAP) for number in range(len(pictures))]
        titles = wrap(row.title, font, full)
        captions = [wrap(caption, font, width) for caption in row.captions]
        texts += [(MARGIN, y + number * LINE, line, TITLE) for number, line in enumerate(titles)]
        y += (len(titles) + max(map(len, captions), default=0)) * LINE + (GAP if titles and captions else 0)
        for x, lines in zip(columns, captions, strict=False):
            texts += [(x, y - (len(lines) - number) * LINE, line, CAPTION) for number, line in enumerate(lines)]
        places += [(x, y + GAP // 2, picture) for x, picture in zip(columns, pictures, strict=True)]
        y += height + 2 * GAP
    sheet = Image.new("RGB", (full + 2 * MARGIN, y + MARGIN - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for x, top, text, color in texts:
        draw.text((x, top), text, color, font)
    for x, top, picture in places:
        sheet.paste(picture, (x, top))
    return sheet


def fit(picture: Image.Image) -> Image.Image:
    """The picture at a size to look at: enlarged by a whole number without smoothing, or reduced."""
    side = max(picture.size)
    if side < SMALL:
        factor = -(-SMALL // side)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if side > LARGE:
        return picture.resize((picture.width * LARGE // side, picture.height * LARGE // side), Image.Resampling.LANCZOS)
    return picture


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The lines of a text that is `width` pixels wide at most; of more than `MOST_LINES` the last ends with …."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(_cut(word, font, width))
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], _cut(f"{lines[MOST_LINES - 1]} …", font, width)]
    return lines


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as fits, with …."""
    if font.getlength(text) <= width:
        return text
    short = text.removesuffix(" …")
    while short and font.getlength(f"{short}…") > width:
        short = short[:-1]
    return f"{short}…"
