"""What an analysis is, and the model that it looks at."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..fusion import STRATEGIES, SemanticRouter
from .arrays import Arrays, Coordinates, NamedArray
from .figures import Drawing
from .router import PipelineFiles, fusion_weights, layer_numbers, load_router

FINE_TIMES: NDArray[np.float64] = np.linspace(0, 1, 21).round(6)
AXIS_LABELS = {"block": "DiT block", "flow_time": "flow time t (0 noise, 1 data)"}


@dataclass(frozen=True)
class AnalysisOptions:
    """What can be chosen of the analyses."""

    all_blocks: bool = False


class Subject:
    """A saved model. Its parts are read when they are first asked for: router and backbone are apart.

    Args:
        files: the pipeline's folder.
        options: what was chosen.
    """

    def __init__(self, files: PipelineFiles, options: AnalysisOptions = AnalysisOptions()) -> None:
        self.files = files
        self.options = options

    @property
    def strategy(self) -> str:
        """The fusion strategy."""
        return self.files.strategy

    @cached_property
    def router(self) -> SemanticRouter:
        """The router alone."""
        return load_router(self.files)

    @cached_property
    def layers(self) -> list[int]:
        """The language-model layers that the router reads."""
        return layer_numbers(self.files)

    def weights(self, flow_times: NDArray[np.float64]) -> NamedArray:
        """Fusion weights, without the axes flow_time or block where the strategy does not depend on them."""
        values = fusion_weights(self.router, flow_times)
        axes: dict[str, Coordinates] = {}
        if self.router.depends_on_time:
            axes["flow_time"] = flow_times.tolist()
        if self.router.depends_on_depth:
            axes["block"] = range(self.router.num_blocks)
        axes["layer"] = self.layers
        return NamedArray(values.reshape([len(coordinates) for coordinates in axes.values()]), axes)


class Table(NamedTuple):
    """What a table says, its column heads, and its rows."""

    caption: str
    header: list[str]
    rows: list[list[str]]


class Analysis(ABC):
    """A figure or table of the paper: what it needs, what it computes, what it draws."""

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[Literal["weights", "sampling"]]

    @classmethod
    @abstractmethod
    def applies_to(cls, strategy: str) -> bool:
        """Whether a model of this fusion strategy has it."""

    @abstractmethod
    def compute(self, subject: Subject) -> Arrays:
        """The numbers."""

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """Sentences with the numbers that matter, for the report."""
        return []

    def tables(self, arrays: Arrays, subject: Subject) -> list[Table]:
        """Tables for the report."""
        return []

    @abstractmethod
    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """The pictures of these numbers."""


def routed(strategy: str) -> bool:
    """Whether a strategy weighs layers."""
    return strategy in STRATEGIES


def on_time(strategy: str) -> bool:
    """Whether a strategy's weights depend on time."""
    return routed(strategy) and STRATEGIES[strategy].depends_on_time


def on_depth(strategy: str) -> bool:
    """Whether a strategy's weights depend on the block."""
    return routed(strategy) and STRATEGIES[strategy].depends_on_depth


def marginals(weights: NamedArray) -> dict[str, NamedArray]:
    """Weights by block and by flow_time, as far as they depend on them, each averaged over the other."""
    axes = [axis for axis in ("block", "flow_time") if axis in weights.axes]
    found: dict[str, NamedArray] = {}
    for axis in axes:
        others = tuple(number for number, name in enumerate(weights.axes) if name not in (axis, "layer"))
        found[axis] = NamedArray(
            weights.values.mean(others), {axis: weights.axes[axis], "layer": weights.axes["layer"]}
        )
    return found
