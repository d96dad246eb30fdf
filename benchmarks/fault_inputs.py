"""Inputs that are damaged at random: each must be read, or refused in one sentence, and soon."""

import json
import os
import resource
import select
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.random import Generator
from PIL import Image

from semantic_routing.data import (
    BrokenExampleError,
    FolderSource,
    LatentsSource,
    ParquetSource,
    SourceConfig,
    WebDatasetSource,
)
from semantic_routing.data.parts import LOCK
from semantic_routing.data.shards import INDEX, find_files, index_shards
from semantic_routing.io.images import UnreadableImageError, read_image
from semantic_routing.pipelines.loading import load_pipeline
from semantic_routing.pipelines.saved import find_pipeline, layer_numbers, load_fusion
from semantic_routing.training.build import build_transformer, resolve_sizes
from semantic_routing.training.checkpoint import architecture, check_architecture, find_checkpoint, read_state
from semantic_routing.training.config import load_config
from semantic_routing.training.same_run import check_same_run

LONGEST_SENTENCE = 2000
SECONDS = 300.0  # after which a case hangs
MEMORY = 4 * 2**30  # bytes that inputs of some kilobytes may ask for
EXAMPLES = 5  # of each kind of fault that are kept
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, float("nan"), "", " ", "x" * 100_000, "\0", "../..", [], {}, [[]], {"": {}},
)  # fmt: skip


class Case(NamedTuple):
    """One damaged input.

    Args:
        what: was done to it.
        read: reads it.
        must_refuse: it cannot be right.
    """

    what: str
    read: Callable[[], object]
    must_refuse: bool = False


@dataclass
class InputReport:
    """How often inputs of one kind came to which end, and what went wrong, by the number that repeats it."""

    kind: str
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Samples(NamedTuple):
    """What is damaged: all of it is whole."""

    config: Path
    records: Path
    checkpoint: Path
    pipeline: Path
    shards: Path
    latents: Path


def damage_bytes(content: bytes, random: Generator) -> tuple[bytes, str]:
    """Some bytes changed, cut off, doubled or zeroed."""
    at, length = int(random.integers(len(content) + 1)), int(random.integers(1, 65))
    kind = random.choice(["flip", "cut", "empty", "zeros", "double", "noise"], p=[0.4, 0.2, 0.05, 0.15, 0.1, 0.1])
    noise = random.integers(0, 256, size=length, dtype=np.uint8).tobytes()
    damaged = {
        "flip": content[:at] + noise[:1] + content[at + 1 :],
        "cut": content[:at],
        "empty": b"",
        "zeros": content[:at] + bytes(length) + content[at + length :],
        "double": content[:at] + content[max(at - length, 0) :],
        "noise": content[:at] + noise + content[at + length :],
    }[str(kind)]
    return damaged, f"{kind} at {at} of {len(content)}"


def damage_values(value: Any, random: Generator) -> tuple[Any, str]:
    """A tree of values in which one was replaced, left out or renamed."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    parent, key, path = places[int(random.integers(len(places)))]
    kind = random.choice(["replace", "remove", "rename"], p=[0.7, 0.15, 0.15])
    if kind == "replace":
        odd = ODD_VALUES[int(random.integers(len(ODD_VALUES)))]
        parent[key] = odd
        return value, f"{path} = {odd!r:.40}"
    old = parent.pop(key)
    if kind == "rename" and isinstance(parent, dict):
        parent[f"{key}x"] = old
    return value, f"{kind} {path}"


def _places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield value, key, f"{path}.{key}"
        yield from _places(below, f"{path}.{key}")


def config_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """A run's config."""
    path = folder / "config.yaml"
    if random.random() < 0.5:
        content, what = damage_bytes(samples.config.read_bytes(), random)
        path.write_bytes(content)
    else:
        values, what = damage_values(yaml.safe_load(samples.config.read_text()), random)
        path.write_text(yaml.safe_dump(values))
    renamed = what.startswith("rename") and ".fusion_options" not in what
    return Case(what, lambda: resolve_sizes(load_config(str(path))), must_refuse=renamed)


def records_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """The records of a data set of images."""
    path = folder / "records.jsonl"
    lines = samples.records.read_bytes().splitlines()
    if random.random() < 0.5:
        content, what = damage_bytes(b"\n".join(lines), random)
    else:
        number = int(random.integers(len(lines)))
        record, what = damage_values(json.loads(lines[number]), random)
        lines[number], content = json.dumps(record).encode(), b""
    path.write_bytes(content or b"\n".join(lines))

    def read() -> None:
        source = FolderSource(path=path, image_root=samples.records.parent).open(16, 0)
        for index in range(source.length):
            try:
                source[index]
            except BrokenExampleError:
                continue

    return Case(what, read)


def image_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """An image of any format and mode."""
    path = folder / "image"
    kind, side = str(random.choice(FORMATS)), int(random.integers(1, 24))
    pixels = random.integers(0, 256, (side, side, int(random.choice([3, 4]))), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.convert("RGB" if kind in ("JPEG", "BMP") else image.mode).save(path, format=kind)
    content, what = damage_bytes(path.read_bytes(), random)
    path.write_bytes(content)
    return Case(f"{kind}: {what}", lambda: read_image(path).getdata())


def shards_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """Tar shards, with their index or without."""
    place = _copy(samples.shards, folder / "shards")
    _, what, _ = _damage_file(place, random)
    if random.random() < 0.5:
        (place / INDEX).unlink(missing_ok=True)

    def read() -> None:
        index_shards(find_files([str(place)], "tar"), beside=True)  # which keeps it out of the user's cache
        _read_source(WebDatasetSource(path=str(place)), samples)

    return Case(what, read)


def parquet_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """A Parquet file of pictures and captions."""
    path = folder / "rows.parquet"
    records = [json.loads(line) for line in samples.records.read_text().splitlines()]
    pictures = [{"bytes": (samples.records.parent / record["image"]).read_bytes()} for record in records]
    table = pa.table({"image": pictures, "text": [record["text"] for record in records]})
    pq.write_table(table, path, row_group_size=5, compression=str(random.choice(["none", "snappy"])))
    content, what = damage_bytes(path.read_bytes(), random)
    path.write_bytes(content)
    return Case(what, lambda: _read_source(ParquetSource(path=str(path)), samples))


def latents_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """Latents and features that were computed ahead."""
    place = _copy(samples.latents, folder / "latents")
    _, what, damaged = _damage_file(place, random)
    cut = damaged and any(word in what for word in (": cut", ": empty", ": removed"))
    return Case(what, lambda: _read_source(LatentsSource(path=place), samples), must_refuse=cut)


def _read_source(config: SourceConfig, samples: Samples) -> None:
    """Reads all examples, and features where there are any; one that is missing must have been named."""
    source = config.open(16, 0)
    names, seen = list(source.left_out), 0
    for number in range(source.length or 0):
        try:
            _, captions, originals = source[number]
            if source.has_features:
                for caption in ("", *captions, *originals):
                    source.features(number, caption)
            seen += 1
        except BrokenExampleError as error:
            names.append(str(error))
    wanted = len(samples.records.read_text().splitlines())
    if seen < wanted and not names:
        raise LookupError(f"{seen} of {wanted} examples, and no word of the others")
    if not seen:
        raise BrokenExampleError(names[0])


def checkpoint_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """A checkpoint that a run shall go on from."""
    place = _copy(samples.checkpoint, folder / samples.checkpoint.name)
    path, what, damaged = _damage_file(place, random)

    def read() -> None:
        config = load_config(str(samples.config))
        checkpoint = find_checkpoint(folder, place.name)
        check_same_run(read_state(checkpoint).run or {}, config, (), checkpoint)
        check_architecture(checkpoint, architecture(build_transformer(config, resolve_sizes(config))))

    return Case(what, read, must_refuse=damaged and path.suffix == ".safetensors")


def pipeline_case(samples: Samples, folder: Path, random: Generator) -> Case:
    """A saved pipeline."""
    place = _copy(samples.pipeline, folder / "pipeline")
    path, what, damaged = _damage_file(place, random)

    def read() -> None:
        files = find_pipeline(str(place))
        load_fusion(files)
        layer_numbers(files)
        load_pipeline(str(place), device="cpu")

    cut = damaged and any(word in what for word in (": cut", ": empty", ": removed"))
    return Case(what, read, must_refuse=cut and path.suffix == ".safetensors")


def _copy(folder: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(folder, place))


def _damage_file(folder: Path, random: Generator) -> tuple[Path, str, bool]:
    """Damages one file of a folder: which, how, and whether it is another one now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    path = files[int(random.integers(len(files)))]
    name, before = path.relative_to(folder), path.read_bytes()
    if random.random() < 0.1:
        path.unlink()
        return path, f"{name}: removed", True
    if path.suffix == ".json" and random.random() < 0.5 and (values := json.loads(before)):
        values, what = damage_values(values, random)
        path.write_text(json.dumps(values))
    else:
        content, what = damage_bytes(before, random)
        path.write_bytes(content)
    return path, f"{name}: {what}", path.read_bytes() != before


KINDS: dict[str, Callable[[Samples, Path, Generator], Case]] = {
    "configs": config_case,
    "records": records_case,
    "images": image_case,
    "shards": shards_case,
    "parquet": parquet_case,
    "latents": latents_case,
    "checkpoints": checkpoint_case,
    "pipelines": pipeline_case,
}


def fuzz(kind: str, samples: Samples, folder: Path, numbers: Sequence[int], seed: int) -> InputReport:
    """Reads damaged inputs, each by its number, in a process that is replaced where it hangs or dies.

    Args:
        kind: one of `KINDS`.
        samples: what is damaged.
        folder: for damaged copies.
        numbers: of inputs.
        seed: of all of them.
    """
    report, rest = InputReport(kind), list(numbers)
    folder.mkdir(parents=True, exist_ok=True)
    while rest:
        for end, what in _ends(kind, samples, folder, rest, seed):
            report.ends[end] += 1
            if end not in ("refused", "read") and report.ends[end] <= EXAMPLES:
                report.faults.append(f"{kind} {rest[0]}: {end}: {what}")
            rest.pop(0)
    return report


def _ends(kind: str, samples: Samples, folder: Path, numbers: Sequence[int], seed: int) -> Iterator[tuple[str, str]]:
    """How inputs ended, until one hangs or takes its process with it."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(receiver)
        _read_all(kind, samples, folder, numbers, seed, sender)
    os.close(sender)
    with os.fdopen(receiver, "rb", buffering=0) as pipe:
        for _ in numbers:
            ready, _, _ = select.select([pipe], [], [], SECONDS)
            line = pipe.readline() if ready else b""
            if not line:
                yield ("died" if ready else "hang"), ""
                break
            end, what = json.loads(line)
            yield end, what
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def _read_all(kind: str, samples: Samples, folder: Path, numbers: Sequence[int], seed: int, sender: int) -> None:
    """In a process of its own: reads inputs and sends how each ended."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    with open(os.devnull, "w") as nowhere, os.fdopen(sender, "wb", buffering=0) as pipe:  # noqa: PTH123
        sys.stdout = sys.stderr = nowhere
        try:
            for number in numbers:
                random = np.random.default_rng([seed, list(KINDS).index(kind), number])
                pipe.write(json.dumps(_end_of(KINDS[kind](samples, folder, random))).encode() + b"\n")
        finally:
            os._exit(0)


def _end_of(case: Case) -> tuple[str, str]:
    try:
        case.read()
    except (ValueError, OSError, BrokenExampleError, UnreadableImageError) as error:
        sentence = next(iter(str(error).splitlines()), "")
        short = 0 < len(sentence) <= LONGEST_SENTENCE
        return ("refused" if short else "no sentence"), f"{case.what}: {type(error).__name__}: {sentence[:200]}"
    except Exception as error:
        return "traceback", f"{case.what}: {type(error).__name__}: {str(error)[:200]}"
    return ("accepted silently" if case.must_refuse else "read"), case.what
