"""What an analysis is, and the model that it looks at."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..fusion import STRATEGIES, SemanticRouter
from .arrays import Arrays, Coordinates, NamedArray
from .figures import Drawing
from .router import PipelineFiles, fusion_weights, layer_numbers, load_router


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
