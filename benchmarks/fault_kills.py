"""Jobs that are interrupted at random moments again and again must end as if they had not been."""

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

Contents = dict[str, str]
"""What a job leaves, by name, as far as it must not depend on interruptions."""

STOPPED = 130
"""The exit status of a job that says that it stopped before its end, as `sroute` has it after Ctrl-C."""

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
    if report.faults:
        return report
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
    if not ended and (not sent or (job.processes == 1 and codes[0] > 0 and codes[0] != STOPPED)):
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
        except KeyboardInterrupt:
            code = STOPPED
        except BaseException:
            traceback.print_exc(file=file)
        finally:
            file.flush()
            os._exit(code)


def _last_line(log: Path) -> str:
    return next(reversed(log.read_text().strip().splitlines()), "no word")
