"""How a row is measured: its sides take turns in one process, and what is reported is their ratio round by round."""

import ctypes
import gc
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from semantic_routing.io.precision import fast_precision
from semantic_routing.pipelines.loading import usable_device

# Options that several rows have.
Width = Annotated[int, typer.Option(help="Of the DiT; all other widths follow, see models.Sizes. 2048 is full size.")]
Blocks = Annotated[int, typer.Option(min=1, help="Of the DiT; 24 is full size.")]
TextLayers = Annotated[int, typer.Option(min=2, help="Of the language model; 36 is full size.")]
Rounds = Annotated[int, typer.Option(min=1, help="In which all sides are run once, after one that is not counted.")]
Device = Annotated[str | None, typer.Option(help="Default: cuda where there is one.")]
Out = Annotated[Path, typer.Option(help="Folder for the JSON file.")]
OUT = Path("runs/benchmarks")

RESET_PEAK = Path("/proc/self/clear_refs")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def run(main: Callable[..., None]) -> None:
    """Runs a row's script: its module's docstring is the help, a mistake of the user one sentence and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=sys.modules[main.__module__].__doc__)(main)
    try:
        app()
    except ValueError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or by default the GPU where there is one."""
    return usable_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def alternate(
    sides: Mapping[str, Callable[..., Any]],
    rounds: int,
    device: torch.device,
    measure: Callable[[Callable[..., Any], torch.device], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each side in each round. Every other round goes backwards, so that no side always comes first.

    Freed memory is kept meanwhile, see `keep_freed_memory`.

    Args:
        sides: what to run, by name.
        rounds: that are counted, after one that is not.
        device: to wait for.
        measure: tells the seconds of a side; None is `timed`.
    """
    keep_freed_memory()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            taken = (measure or timed)(sides[name], device)
            if number:
                seconds[name].append(taken)
    return seconds


def keep_freed_memory() -> None:
    """Makes the C library keep the memory that is freed, as torch does on a GPU. Other libraries are left alone.

    By itself the library gives the end of its heap back to the system when 64 MiB of it are free, and the next
    operations wait for new pages. Whether this happens once, never or in every step depends on where a few small
    tensors lie. It took up to a tenth of a step, of one side in one round and of another in the next.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it accepts
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def cpu_timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of this process's CPU, which other processes disturb less."""
    started = time.process_time()
    work()
    return time.process_time() - started


def synchronise(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(ours: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round, so that what slows the machine down slows both."""
    return [a / b for a, b in zip(ours, other, strict=True)]


def peaks(sides: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, int]:
    """Bytes that each side needs at its peak beyond what is held before it; nothing where they cannot be measured.

    On a GPU what tensors occupy; on a CPU what the process occupies, which Linux alone tells. On a CPU call this before
    anything is timed: memory that the C library kept from earlier work would pass for needed.
    """
    if device.type == "cuda":
        return {name: _peak_of_tensors(work, device) for name, work in sides.items()}
    libc = ctypes.CDLL(None)
    if not (RESET_PEAK.exists() and hasattr(libc, "mallopt")):
        return {}
    libc.mallopt(M_MMAP_THRESHOLD, 2**16)  # what is freed goes back to the system at once
    found = {name: _peak_of_process(work, libc) for name, work in sides.items()}
    # What the C library comes to by itself in a program with large tensors.
    libc.mallopt(M_MMAP_THRESHOLD, 2**25)
    libc.mallopt(M_TRIM_THRESHOLD, 2**26)
    return found


def _peak_of_tensors(work: Callable[[], object], device: torch.device) -> int:
    work()  # makes what stays for good
    gc.collect()
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_of_process(work: Callable[[], object], libc: ctypes.CDLL) -> int:
    work()
    gc.collect()
    libc.malloc_trim(0)
    RESET_PEAK.write_text("5")
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"Linux tells {field} of every process"
    return 1024 * int(found[1])


def fast_dtype() -> torch.dtype:
    """That in which this machine multiplies matrices faster; models of the rows compute in it."""
    dtype: torch.dtype = getattr(torch, fast_precision())
    return dtype


def name_of(dtype: torch.dtype) -> str:
    """As "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of one large product of square matrices in `fast_dtype`, the best of several."""
    side, repeats = (8192, 10) if device.type == "cuda" else (2048, 1)
    a, b = (torch.randn(side, side, device=device, dtype=fast_dtype()) for _ in range(2))

    def products() -> None:
        for _ in range(repeats):
            torch.matmul(a, b)

    return 2 * side**3 * repeats / min(timed(products, device) for _ in range(5))


def bandwidth(device: torch.device) -> float:
    """Bytes/s of copying, read and written bytes both counted, the best of several."""
    source = torch.ones(2**31 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(timed(lambda: target.copy_(source), device) for _ in range(5))


def check_agreement(ours: Tensor, reference: Tensor, tolerance: float) -> float:
    """The relative distance of two results of the same computation.

    Raises:
        RuntimeError: it is larger than the tolerance, so that their costs cannot be compared.
    """
    distance = float((ours.float() - reference.float()).norm() / reference.float().norm())
    if not distance <= tolerance:
        raise RuntimeError(f"The two sides differ by {distance:.3g}, more than {tolerance:g}: they are not the same.")
    return distance


def median(values: Sequence[float]) -> float:
    """Of the rounds."""
    return statistics.median(values)


def total(counts: dict[str, Any]) -> float:
    """All components of a count of FLOPs."""
    return float(sum(counts.values()))
