"""Recaptioning: a vision-language model behind a chat endpoint describes every image of a data set.

    {"image": "cats/1.jpg", "text": "a tabby cat asleep on a red sofa, …", "original_text": "a cat"}

Records keep what they had; the new caption takes the old one's place, and the old one stays beside it. Lines are
written as replies come in. Run again, it asks only for what is not there yet. A file that holds anything else than such
lines is refused and left as it is.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..io.chat import ChatClient, EndpointError, Request, user_message
from ..io.jsonl import to_line
from .sources import BrokenExampleError, FolderImages, FolderSource

logger = logging.getLogger(__name__)

PROMPT = (
    "Describe this image in one dense paragraph: every object with its color, shape, material and number, where the "
    "objects are and how they relate, what is happening, the setting, the light and the style. Quote any writing. "
    "Say only what can be seen, and give the description alone."
)
# Requests that fail in a row, after which the endpoint itself must be at fault.
MAX_FAILURES = 20


class CaptionOptions(NamedTuple):
    """What is asked, and how."""

    prompt: str = PROMPT
    image_side: int = 1024  # longest side in pixels of what is sent
    max_tokens: int = 512  # of a caption
    temperature: float = 0.2
    max_broken: float = 0.01  # share of images that cannot be read, past which nothing more is asked


class CaptionReport(NamedTuple):
    """Images by what became of them; `broken` and `failed` say why."""

    written: int
    already_there: int
    broken: list[str]
    failed: list[str]


def caption_images(source: FolderSource, out: Path, client: ChatClient, options: CaptionOptions) -> CaptionReport:
    """Writes a JSONL file of records with new captions, which `FolderSource` reads.

    An image that several records share is described once.

    Args:
        source: records and their images; captions may be missing.
        out: JSONL file; what an earlier run wrote is kept.
        client: of the endpoint.
        options: what is asked.

    Raises:
        ValueError: the data cannot be read, `out` holds a line that this did not write, or too many images are broken.
        OSError: the endpoint fails again and again.
    """
    if out.resolve() == source.path.resolve():
        raise ValueError(f"The output {out} is the data itself; name another file.")
    images = source.images()
    rows = _rows_by_image(images)
    done = _done(out, images, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = _Requests(images, {name: found for name, found in rows.items() if name not in done}, options, len(rows))
    written, failed, in_a_row = 0, [], 0
    with out.open("a", encoding="utf-8") as file:
        for reply in client.map(iter(work)):
            try:
                text = reply.text()
            except EndpointError as error:
                failed.append(f"{reply.key}: {error}")
                logger.warning("No caption for %s", failed[-1])
                in_a_row += 1
                if in_a_row >= MAX_FAILURES:
                    raise OSError(f"{in_a_row} requests in a row failed, the last one: {error}") from error
                continue
            in_a_row = 0
            file.write("".join(_lines(images, rows[str(reply.key)], text)))
            file.flush()
            written += 1
    return CaptionReport(written, len(rows) - len(work.rows), work.broken, failed)


class _Requests:
    """Requests made one at a time as they are sent; images that cannot be read are counted on the way."""

    def __init__(self, images: FolderImages, rows: dict[str, list[int]], options: CaptionOptions, total: int) -> None:
        self.images = images
        self.rows = rows
        self.options = options
        self.total = total
        self.broken: list[str] = []

    def __iter__(self) -> Iterator[Request]:
        settings = {"max_tokens": self.options.max_tokens, "temperature": self.options.temperature}
        for name, rows in self.rows.items():
            try:
                image = self.images.image(rows[0])
            except BrokenExampleError as error:
                self._count(str(error))
                continue
            side = self.options.image_side
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            yield Request(name, [user_message(self.options.prompt, image, image_format="JPEG")], settings)

    def _count(self, reason: str) -> None:
        logger.warning("Skipped a broken image: %s", reason)
        self.broken.append(reason)
        if len(self.broken) > self.options.max_broken * self.total:
            raise ValueError(
                f"{len(self.broken)} of {self.total} images are broken, more than {self.options.max_broken:.2%}: "
                f"{'; '.join(self.broken[:5])}"
            )


def _rows_by_image(images: FolderImages) -> dict[str, list[int]]:
    """Records of each image; one that names no image stands alone, to be counted as broken."""
    rows: dict[str, list[int]] = {}
    for number in range(images.length):
        name = images.record(number).get(images.config.image_key)
        rows.setdefault(name if isinstance(name, str) else f"record {number}", []).append(number)
    return rows


def _done(out: Path, images: FolderImages, rows: dict[str, list[int]]) -> set[str]:
    """Images that an earlier run wrote; what an interruption left of the last one's lines is cut off.

    Raises:
        ValueError: a line is not one that this command writes for this data.
    """
    lines = out.read_bytes().splitlines(keepends=True) if out.is_file() else []
    done: set[str] = set()
    start = kept = 0  # a line, and the bytes before it
    while start < len(lines):
        text, name = _caption(lines[start], images)
        expected = [line.encode() for line in _lines(images, rows.get(name, []), text)]
        found = lines[start : start + max(len(expected), 1)]
        whole = found == expected
        if not whole and not (start + len(found) == len(lines) and _is_start(b"".join(found), images, expected)):
            raise ValueError(
                f"{out} holds a line that this command did not write for {images.config.path} (line {start + 1}); "
                "name another output."
            )
        if not whole:
            os.truncate(out, kept)
            break
        done.add(name)
        kept += sum(map(len, found))
        start += len(found)
    return done


def _caption(line: bytes, images: FolderImages) -> tuple[str, str]:
    """The caption and the image of a line; empty where it has none."""
    try:
        record = json.loads(line)
        text, name = record[images.config.text_key], record[images.config.image_key]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", ""
    return (text, name) if isinstance(text, str) and isinstance(name, str) else ("", "")


def _is_start(found: bytes, images: FolderImages, expected: Sequence[bytes]) -> bool:
    """Whether an interruption may have left this: the beginning of an image's lines, its caption cut or not."""
    if expected:
        return b"".join(expected).startswith(found)
    mark = "\0"  # a caption that no model writes
    lines = (_lines(images, [row], mark)[0] for row, record in enumerate(images.records) if isinstance(record, dict))
    starts = (line.partition(json.dumps(mark)[1:-1])[0].encode() for line in lines)
    return any(found.startswith(start) or start.startswith(found) for start in starts) and b"\n" not in found


def _lines(images: FolderImages, rows: Sequence[int], text: str) -> list[str]:
    """Records of one image with their new caption; one that was itself kept as the original stays the original."""
    source, lines = images.config, []
    for record in map(images.record, rows):
        old = record.get(source.original_text_key) or record.get(source.text_key)
        kept = {source.original_text_key: old} if old else {}
        lines.append(to_line({**record, source.text_key: text, **kept}))
    return lines
