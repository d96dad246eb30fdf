"""Judging shared by processes, as sampling is: each judges its part, and the first one gathers the verdicts."""

from pathlib import Path

from ..io.jsonl import Ledger, read_lines
from .benchmark import OK, Benchmark
from .runner import IMAGES, find_images, judge_pending, question_keys, sampling_of
from .sampling import processes


def judge_share(benchmark: Benchmark, out: Path, images: Path | None, images_per_prompt: int | None) -> None:
    """Judges what has no verdict yet, this process its part of it; scoring then finds all verdicts in the ledger.

    Does nothing with one process, or where judging costs so little that verdicts are not kept.

    Args:
        benchmark: as for `runner.score`.
        out: as there.
        images: as there.
        images_per_prompt: as there.

    Raises:
        ValueError: as there.
    """
    state = processes()
    if state.num_processes == 1 or benchmark.ledger is None:
        return
    shared = out / benchmark.ledger
    if state.is_main_process:
        _gather(shared)  # what an interrupted run left
    state.wait_for_everyone()
    images = images or out / IMAGES
    count = images_per_prompt or sampling_of(images).get("images_per_prompt", benchmark.sampler.images_per_prompt)
    files, _ = find_images(benchmark, images, count)
    known = Ledger(shared)
    pending = {
        key: file._replace(question=number)
        for file, keys in question_keys(benchmark, [file for file in files if file.path.is_file()]).items()
        for number, key in enumerate(keys)
        if (known.get(key) or {"status": "new"}).get("status", OK) != OK
    }
    mine = list(pending)[state.process_index :: state.num_processes]
    judge_pending(benchmark, {key: pending[key] for key in mine}, Ledger(_part(shared, state.process_index)))
    state.wait_for_everyone()
    if state.is_main_process:
        _gather(shared)


def _part(ledger: Path, process: int) -> Path:
    return ledger.with_name(f"{ledger.stem}-part-{process}.jsonl")


def _gather(ledger: Path) -> None:
    """Moves the entries of all processes' ledgers into one."""
    whole = Ledger(ledger)
    for part in sorted(ledger.parent.glob(f"{ledger.stem}-part-*.jsonl")):
        for entry in read_lines(part):
            whole.add(entry["key"], {name: value for name, value in entry.items() if name != "key"})
        part.unlink()
