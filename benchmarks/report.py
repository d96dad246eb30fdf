"""What a row's script leaves behind: a JSON file with everything measured, and its rows of the table."""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer

from semantic_routing.io.versions import versions

from .common import bandwidth, fast_dtype, matrix_peak, median, name_of

HEADER = ("what", "wanted", "measured", "lowest to highest", "by counts", "command")


@dataclass
class Row:
    """One line of the table.

    Args:
        what: is measured.
        wanted: a bound, as "≤ 0.75".
        measured: by round, or one number.
        floor: what counts of FLOPs or bytes allow.
        command: that measured it.
    """

    what: str
    wanted: str
    measured: list[float]
    floor: float | None = None
    command: str = ""

    def cells(self) -> list[str]:
        """As `HEADER` says."""
        spread = f"{min(self.measured):.3f} to {max(self.measured):.3f}" if len(self.measured) > 1 else ""
        floor = "" if self.floor is None else f"{self.floor:.3f}"
        return [self.what, self.wanted, f"{median(self.measured):.3f}", spread, floor, f"`{self.command}`"]


@dataclass
class Report:
    """All that one script measured.

    Args:
        sizes: of the models, in words.
        rows: of the table.
        seconds: of each side in each round.
        peak_bytes: of each side, beyond what was held before.
        flops: of one run of each side, by count.
        notes: what a reader must know to judge the numbers.
    """

    sizes: str
    rows: list[Row]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def finish(self, out: Path, device: torch.device) -> None:
        """Prints the report and writes it to `out/NAME.json`, where NAME is the script's."""
        script = Path(sys.argv[0]).stem
        command = shlex.join(["python", "-m", f"benchmarks.{script}", *sys.argv[1:]])
        for row in self.rows:
            row.command = command
        machine = describe_machine(device)
        typer.echo(f"{self.sizes}\n{machine_line(machine)} Load {machine['load']:.1f}.\n\n{markdown(self.rows)}\n")
        for line in [*self._sides(machine), *self.notes]:
            typer.echo(line)
        out.mkdir(parents=True, exist_ok=True)
        values = {"command": command, "machine": machine, **asdict(self)}
        (out / f"{script}.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    def _sides(self, machine: dict[str, Any]) -> list[str]:
        """What each side took, and how far that is from the machine's own limit."""
        lines = []
        for name, seconds in self.seconds.items():
            line = f"{name}: {1000 * median(seconds):.1f} ms"
            if name in self.flops:
                share = self.flops[name] / median(seconds) / machine["matrix_flops_per_second"]
                line += f", {self.flops[name] / 1e9:.1f} GFLOP, {share:.0%} of the measured matrix peak"
            lines.append(line)
        lines += [f"{name}: {size / 2**20:.0f} MiB at the peak" for name, size in self.peak_bytes.items()]
        return lines


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What ran this, what it was measured to reach, how busy it was, and all versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "type": name_of(fast_dtype()),
        "matrix_flops_per_second": matrix_peak(device),
        "bytes_per_second": bandwidth(device),
        "versions": versions(),
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in a sentence."""
    peak, copied = machine["matrix_flops_per_second"] / 1e12, machine["bytes_per_second"] / 1e9
    return (
        f"{machine['device']} ({machine['processor']}, {machine['threads']} threads on {machine['cores']} cores), "
        f"measured {peak:.2f} TFLOP/s in {machine['type']} products and {copied:.1f} GB/s in copies; "
        f"torch {machine['versions']['torch']}."
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
