"""Speed and memory, measured by hand: `make bench`, or one row with `python -m benchmarks.NAME --help`."""
