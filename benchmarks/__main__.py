"""Runs every row, each in a process of its own, and writes one table of them all: `make bench`."""

import subprocess
import sys

from .common import OUT
from .table import ROWS, write_table


def main() -> None:
    """Stops at a row that fails."""
    for name in ROWS:
        (OUT / f"{name}.json").unlink(missing_ok=True)
        print(f"\n=== {name} ===", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
    print(f"\nWrote {write_table(OUT)}")


if __name__ == "__main__":
    main()
