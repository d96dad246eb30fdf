"""Runs every row, each in a process of its own, and writes one table of them all: `make bench`.

`--quick` takes smaller sizes and fewer rounds, for a first look.
"""

import subprocess
import sys
from typing import Annotated

import typer

from . import common
from .table import ROWS, write_table

QUICK = {
    "sampling_strategies": "--width 512 --text-layers 12 --rounds 2 --strategy depth-wise --strategy joint",
    "sampling_reference": "--width 1024 --blocks 2 --rounds 3",
    "fusion": "--rounds 5",
    "training": "--width 256 --blocks 12 --text-layers 12 --rounds 2",
    "training_speed": "--batch-size 16 --rounds 1 --no-compile --seen 1000",
    "one_image": "--rounds 10",
    "routed_host": "--width 384 --blocks 6 --rounds 4",
    "gpu_training": "",
}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes and few rounds.")] = False,
    out: common.Out = common.OUT,
) -> None:
    """Stops at a row that fails."""
    for name in ROWS:
        (out / f"{name}.json").unlink(missing_ok=True)
        print(f"\n=== {name} ===", flush=True)
        options = [*QUICK[name].split()] if quick else []
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), *options], check=True)
    print(f"\nWrote {write_table(out)}")


if __name__ == "__main__":
    common.run(main)
