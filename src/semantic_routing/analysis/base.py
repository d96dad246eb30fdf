"""What an analysis is, and the registry of all of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ..io.registry import Registry
from ..reporting.arrays import Arrays
from ..reporting.figures import Figure
from ..reporting.table import Table

if TYPE_CHECKING:
    from .model import SavedModel

NAME_THE_HOST = "name the host's pipeline, and this folder as --routing"
ANALYSES: Registry[type["Analysis"]] = Registry("analysis")

FLOW_TIME = "flow time t (0 noise, 1 data)"
AXIS_LABELS = {"block": "DiT block", "flow_time": FLOW_TIME}


class Analysis(ABC):
    """A figure or table of the paper, or of your own: what it needs, what it computes, what it draws.

    `@ANALYSES.register("name")` makes it known to `sroute analyze`; its files lie in a folder of that name.
    """

    title: ClassVar[str]
    needs: ClassVar[str] = "a fusion"
    """What a model must have, to end a sentence that begins with "needs"."""
    samples: ClassVar[bool] = False
    """Whether images of the prompts are made."""
    hosts: ClassVar[bool] = True
    """Whether it is made for hosts with a fusion in them, too."""

    @classmethod
    def applies_to(cls, model: "SavedModel") -> bool:
        """Whether the model has what it needs."""
        return model.fusion is not None

    @abstractmethod
    def compute(self, model: "SavedModel") -> Arrays:
        """The numbers."""

    def describe(self, arrays: Arrays, model: "SavedModel") -> list[str]:
        """Sentences with the numbers that matter, for the report."""
        return []

    def tables(self, arrays: Arrays, model: "SavedModel") -> list[Table]:
        """Tables for the report."""
        return []

    @abstractmethod
    def draw(self, arrays: Arrays, model: "SavedModel") -> list[Figure]:
        """The pictures of these numbers."""


def choose(only: Sequence[str], model: "SavedModel") -> tuple[dict[str, Analysis], list[str]]:
    """The analyses to run by name, and a sentence for each that does not apply.

    Args:
        only: names; none means all.
        model: to be analyzed.

    Raises:
        ValueError: a name is unknown, or was asked for and does not apply.
    """
    chosen = {name: ANALYSES.find(name) for name in only} or ANALYSES
    refusals = {}
    for name, analysis in chosen.items():
        if model.is_host and not analysis.hosts:
            refusals[name] = f"{name} needs a pipeline of ours, and {model.files.folder} is a fusion for a host."
        elif model.files.is_adapter and not model.is_host and analysis.samples:
            refusals[name] = f"{name} makes images; {model.files.folder} is a fusion for a host: {NAME_THE_HOST}."
        elif not analysis.applies_to(model):
            refusals[name] = f"{name} needs {analysis.needs}; this model {model.fusion_sentence}."
    if only and refusals:
        raise ValueError(next(iter(refusals.values())))
    applicable = {name: analysis() for name, analysis in chosen.items() if name not in refusals}
    return applicable, list(refusals.values())
