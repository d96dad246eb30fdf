"""Jobs that are interrupted at random moments again and again must end as if they had not been."""

import hashlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from semantic_routing.io.jsonl import read_lines
from semantic_routing.training import train
from semantic_routing.training.checkpoint import find_checkpoint, list_checkpoints
from semantic_routing.training.config import Config
from semantic_routing.training.export import export_pipeline
from semantic_routing.training.precompute import precompute

Contents = dict[str, str]
"""What a job leaves, by name, as far as it must not depend on interruptions."""

HOW = ("kill", "kill while it saves", "terminate twice")


class Job(NamedTuple):
    """What is interrupted.

    Args:
        name: of the job.
        work: begins in a folder, or goes on.
        contents: of a folder in which it ended.
        faults: of a folder in which it was interrupted, given what an uninterrupted one leaves.
        processes: that do it together.
    """

    name: str
    work: Callable[[Path], object]
    contents: Callable[[Path], Contents]
    faults: Callable[[Path, Contents], Iterator[str]]
    processes: int = 1


@dataclass
class KillReport:
    """What interruptions did to one job."""

    job: str
    kills: int = 0
    ends: int = 0
    faults: list[str] = field(default_factory=list)


def interrupt(job: Job, folder: Path, kills: int, random: np.random.Generator, limit: float = 600.0) -> KillReport:
    """Interrupts a job in chains, each of which ends uninterrupted, until `kills` interruptions are used up.

    Args:
        job: what to interrupt.
        folder: for its folders; those of chains that went well are empty at the end.
        kills: interruptions.
        random: of moments and ways.
        limit: seconds after which a process hangs.
    """
    report = KillReport(job.name)
    began = time.monotonic()
    _attempt(job, folder / "whole", report, limit)
    seconds = time.monotonic() - began
    wanted = job.contents(folder / "whole")
    while report.kills < kills and not report.faults:
        place = folder / f"chain-{report.ends}"
        ended = False
        while not (ended or report.faults):
            # Now and then a moment after the end, so that chains do not go on for ever.
            moment = random.uniform(0, 0.6 * seconds) if report.kills < kills else None
            ended = _attempt(job, place, report, limit, moment, HOW[random.choice(3, p=(0.4, 0.4, 0.2))], random)
            report.faults += job.faults(place, wanted)
        report.ends += 1
        if ended and job.contents(place) != wanted:
            report.faults.append(f"{place} is not what an uninterrupted run leaves")
    return report


def _attempt(
    job: Job,
    folder: Path,
    report: KillReport,
    limit: float,
    moment: float | None = None,
    how: str = "",
    random: np.random.Generator | None = None,
) -> bool:
    """Runs a job, interrupted at a moment if there is one; whether it came to its end before."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {_fork(job, folder, rank, port, log) for rank in range(job.processes)}
    began, sent, codes = time.monotonic(), False, []
    while running:
        for pid in list(running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                running.discard(pid)
                codes.append(os.waitstatus_to_exitcode(status))
        elapsed = time.monotonic() - began
        saves = how == "kill while it saves" and any(folder.rglob("*.partial"))
        if running and moment is not None and random is not None and not sent and (elapsed > moment or saves):
            _send(running, how, random)
            sent = True
            report.kills += 1
        if elapsed > limit:
            report.faults.append(f"{folder}: {how or 'left alone'}, it still runs after {limit:g} s")
            _send(running, "kill", None)
        time.sleep(0.001)
    ended = codes == [0] * job.processes
    if not ended and (not sent or (job.processes == 1 and codes[0] > 0)):
        report.faults.append(f"{folder}: {how if sent else 'left alone'}, it failed with {codes}: {_last_line(log)}")
    return ended and not sent


def _send(running: set[int], how: str, random: np.random.Generator | None) -> None:
    """Interrupts processes; of several that are killed, one dies before the others."""
    if how == "terminate twice":
        for number in (signal.SIGTERM, signal.SIGTERM):
            for pid in running:
                os.kill(pid, number)
            time.sleep(0.01)
        return
    for pid in sorted(running):
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.0 if random is None else random.uniform(0, 0.05))


def _fork(job: Job, folder: Path, rank: int, port: int, log: Path) -> int:
    """Starts a process of a job; everything is imported already."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with log.open("w") as file:
        try:
            sys.stdout = sys.stderr = file
            if job.processes > 1:
                places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.processes, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
            job.work(folder)
            code = 0
        except BaseException:
            traceback.print_exc(file=file)
        finally:
            file.flush()
            os._exit(code)


def _last_line(log: Path) -> str:
    return next(reversed(log.read_text().strip().splitlines()), "no word")


def digests(folder: Path) -> Contents:
    """Of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def training_job(config: Config, processes: int = 1) -> Job:
    """Training, which goes on from its latest checkpoint."""

    def work(folder: Path) -> None:
        output = config.training.model_copy(update={"output": folder})
        train(config.model_copy(update={"training": output}), "latest" if list_checkpoints(folder) else None)

    def lines(folder: Path) -> list[dict[str, object]]:
        found = read_lines(folder / "metrics.jsonl")
        return [
            {key: value for key, value in line.items() if key not in ("images_per_second", "data_wait")}
            for line in found
        ]

    def contents(folder: Path) -> Contents:
        return digests(find_checkpoint(folder, "latest")) | {"metrics": str(lines(folder))}

    def faults(folder: Path, wanted: Contents) -> Iterator[str]:
        for path in folder.glob("checkpoint-*"):
            if path.suffix != ".partial":
                try:
                    find_checkpoint(folder, path.name)
                except ValueError as error:
                    yield f"looks complete: {error}"
        steps = [line["step"] for line in lines(folder)]
        if steps != list(range(1, len(steps) + 1)):
            yield f"{folder} has metrics of the steps {steps}"

    return Job(f"training, {processes} process{'es' * (processes > 1)}", work, contents, faults, processes)


def export_job(checkpoint: Path) -> Job:
    """Making a pipeline of a checkpoint, which begins anew."""

    def work(folder: Path) -> None:
        if not (folder / "pipeline").exists():
            export_pipeline(checkpoint, folder / "pipeline")

    return Job("export", work, lambda folder: digests(folder / "pipeline"), _whole_or_not("pipeline"))


def precompute_job(config: Config) -> Job:
    """Computing latents ahead, which goes on with the next shard."""

    def work(folder: Path) -> None:
        precompute(config, folder, 4, torch.device("cpu"))

    def faults(folder: Path, wanted: Contents) -> Iterator[str]:
        for name, digest in digests(folder).items():
            if not name.endswith(".partial") and wanted.get(name) != digest:
                yield f"{folder / name} is not what an uninterrupted run leaves"

    return Job("precompute", work, digests, faults)


def _whole_or_not(name: str) -> Callable[[Path, Contents], Iterator[str]]:
    def faults(folder: Path, wanted: Contents) -> Iterator[str]:
        if (folder / name).exists() and digests(folder / name) != wanted:
            yield f"{folder / name} looks complete and is not"

    return faults
