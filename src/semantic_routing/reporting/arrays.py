"""Arrays whose axes have names and coordinates, written as CSV and JSON."""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..io.files import whole_file, write_json

Coordinate = str | int | float
Coordinates = Sequence[Coordinate]


class NamedArray:
    """Numbers, and what each of their axes runs over.

    Args:
        values: the numbers; what does not exist is NaN.
        axes: name of each axis, in order, with one coordinate an entry.

    Raises:
        ValueError: axes and values differ in shape.
    """

    def __init__(self, values: NDArray[np.generic], axes: Mapping[str, Coordinates]) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        self.axes = {name: list(coordinates) for name, coordinates in axes.items()}
        shape = tuple(len(coordinates) for coordinates in self.axes.values())
        if self.values.shape != shape:
            raise ValueError(f"Values of shape {self.values.shape} do not go with axes {shape} ({', '.join(axes)}).")

    def numbers(self, axis: str) -> NDArray[np.float64]:
        """The coordinates of an axis that runs over numbers."""
        return np.asarray(self.axes[axis], dtype=np.float64)

    def at(self, **where: Coordinate) -> NDArray[np.float64]:
        """The values at one coordinate of each named axis; the other axes remain."""
        index = tuple(self.axes[name].index(where[name]) if name in where else slice(None) for name in self.axes)
        return np.asarray(self.values[index])

    def write_csv(self, path: Path, value: str = "value") -> Path:
        """One row a number: its coordinates, then the number."""
        with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow([*self.axes, value])
            for place, number in zip(itertools.product(*self.axes.values()), self.values.flat, strict=True):
                rows.writerow([*place, "" if math.isnan(number) else f"{number:.9g}"])
        return path

    def to_dict(self) -> dict[str, object]:
        """Axes and nested lists for JSON, which has no NaN: null stands for it."""
        return {"axes": self.axes, "values": _none_for_nan(self.values.tolist())}


Arrays = dict[str, NamedArray]


def write_arrays(arrays: Arrays, folder: Path, stem: str) -> list[Path]:
    """`STEM.json` with all arrays, and `STEM-NAME.csv` for each."""
    path = write_json(folder / f"{stem}.json", {name: array.to_dict() for name, array in arrays.items()})
    return [path, *(array.write_csv(folder / f"{stem}-{name}.csv", name) for name, array in arrays.items())]


def _none_for_nan(values: object) -> object:
    if isinstance(values, list):
        return [_none_for_nan(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values
