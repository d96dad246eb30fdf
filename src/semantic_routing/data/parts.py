"""Work on a folder of shards that several processes share, and that goes on where it was when it was stopped."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from ..io.files import write_text
from ..io.messages import brief

AnyManifest = TypeVar("AnyManifest", bound=BaseModel)

Count = Annotated[int, Field(ge=1, le=10**10)]
"""Of examples; a damaged manifest must not ask for more shards than a program can list."""

LOCK = "lock"
SECONDS_TO_WAIT = 600.0  # for the first process to write the manifest


class Processes(NamedTuple):
    """This process among those that a launcher started; each does every `number`-th shard."""

    rank: int
    number: int

    @classmethod
    def started(cls) -> "Processes":
        """As `torchrun` and `accelerate launch` tell by the environment; alone where there was no launcher."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def own(self, shards: Iterable[range]) -> list[tuple[int, range]]:
        """The numbers of this process's shards, and their examples."""
        return [(place, shard) for place, shard in enumerate(shards) if place % self.number == self.rank]


def ranges(examples: int, shard_size: int) -> list[range]:
    """The examples of each shard."""
    return [range(start, min(start + shard_size, examples)) for start in range(0, examples, shard_size)]


def read_manifest_of(kind: type[AnyManifest], path: Path, writer: str) -> AnyManifest:
    """A manifest. Raises OSError or ValueError where there is none that `writer` wrote."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a manifest that {writer} wrote.") from error


@contextmanager
def working(path: Path, manifest: BaseModel, writer: str, processes: Processes) -> Iterator[None]:
    """Keeps a folder for one run of a command, of one process or several, with a manifest of the shards to come.

    Args:
        path: of the manifest.
        manifest: what the shards will hold.
        writer: the command.
        processes: of which the first one writes it.

    Raises:
        ValueError: the folder holds something else, or another run of the command writes there.
    """
    _begin(path, manifest, writer, processes)
    lock = FileLock(path.parent / LOCK, timeout=0)
    if processes.rank == 0:  # the others are of the same run
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"Another {writer} writes in {path.parent}; wait for its end, or name another folder."
            ) from error
    try:
        yield
    finally:
        lock.release()


def _begin(path: Path, manifest: BaseModel, writer: str, processes: Processes) -> None:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while processes.rank and not path.is_file():
        if time.monotonic() > deadline:
            raise ValueError(f"The first process has not written {path} in {SECONDS_TO_WAIT:.0f} seconds.")
        time.sleep(0.1)
    if path.is_file():
        begun = read_manifest_of(type(manifest), path, writer)
        for key, value in manifest:
            seen = getattr(begun, key)
            if seen == value:
                continue
            if isinstance(seen, dict) and isinstance(value, dict):
                inner = next(inner for inner in {**seen, **value} if seen.get(inner) != value.get(inner))
                key, seen, value = f"{key}.{inner}", seen.get(inner), value.get(inner)
            raise ValueError(f"{path.parent} was begun with {key} {brief(seen)}; the config says {brief(value)}.")
    elif any(path.parent.glob("shard-*")):
        raise ValueError(f"{path.parent} holds shards and no {path.name} that says of what; name another folder.")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, manifest.model_dump_json(indent=1))
