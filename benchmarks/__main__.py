"""Runs every row, each in a process of its own, and writes one table of them all: `make bench`.

A run that was ended goes on: rows that the same commands have measured are kept. Where none is left to measure, all are
measured anew. A row that fails or takes too long is named at the end, and the others run.

`--quick` takes smaller sizes and fewer rounds, for a first look: about ten minutes on two quiet cores.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import common
from .table import ROWS, write_table

QUICK = {
    "sampling_strategies": "--width 512 --text-layers 12 --rounds 4 --strategy depth-wise --strategy joint "
    "--strategy state-wise",
    "sampling_reference": "--width 1024 --blocks 2 --rounds 3",
    "fusion": "--rounds 5",
    "training": "--width 256 --blocks 12 --text-layers 12 --rounds 2",
    "training_speed": "--batch-size 16 --rounds 1 --no-compile --seen 1000",
    "one_image": "--rounds 10",
    "routed_host": "--width 384 --blocks 6 --rounds 4",
    "gpu_training": "",
    "geneval_scoring": "--rounds 2",
}


def measured(path: Path, command: str) -> bool:
    """Whether a file holds what a command measured."""
    return path.exists() and json.loads(path.read_text())["command"] == command


def run_row(name: str, arguments: list[str], out: Path, minutes: float) -> bool:
    """Whether the row is there in the end."""
    print(f"=== {name} ===", flush=True)
    (out / f"{name}.json").unlink(missing_ok=True)
    try:
        return subprocess.run([sys.executable, *arguments], timeout=60 * minutes).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes and few rounds.")] = False,
    minutes: Annotated[float, typer.Option(min=0, help="After which a row is ended.")] = 30,
    row: Annotated[list[str] | None, typer.Option(help="Rows to measure. Default: all.")] = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    for name in row or []:
        if name not in ROWS:
            raise ValueError(f"There is no row {name!r}: expected one of {', '.join(ROWS)}.")
    rows = {
        name: ["-m", f"benchmarks.{name}", "--out", str(out), *(shlex.split(QUICK[name]) if quick else [])]
        for name in row or ROWS
    }
    kept = {name for name in rows if measured(out / f"{name}.json", shlex.join(["python", *rows[name]]))}
    if kept == set(rows):
        kept = set()
    for name in kept:
        print(f"=== {name}: kept ===", flush=True)
    missing = [name for name in rows if name not in kept and not run_row(name, rows[name], out, minutes)]
    print(f"\nWrote {write_table(out)}")
    if missing:
        print(f"These rows failed or took more than {minutes:g} minutes: {', '.join(missing)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    common.run(main)
