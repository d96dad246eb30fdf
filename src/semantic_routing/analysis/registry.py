"""All analyses. A new one is a subclass of `Analysis` and one line here."""

from ..fusion import STRATEGIES
from ..pipelines.saved import ROUTERLESS
from .base import Analysis
from .drift import Drift
from .overhead import Overhead
from .prompt import Prompt
from .shift import Shift
from .similarity import Similarity
from .trajectory import TrajectoryAnalysis
from .trend import Trend
from .usage import Usage
from .weights import Weights

ANALYSES: dict[str, type[Analysis]] = {
    analysis.name: analysis
    for analysis in (
        Weights,
        Similarity,
        Trend,
        Drift,
        TrajectoryAnalysis,
        Shift,
        Usage,
        Prompt,
        Overhead,
    )
}


def why_not(analysis: type[Analysis], strategy: str) -> str | None:
    """A sentence that says to which strategies an analysis applies, if not to this one."""
    if analysis.applies_to(strategy):
        return None
    known = [name for name in (*STRATEGIES, ROUTERLESS) if analysis.applies_to(name)]
    return f"{analysis.name} applies to {', '.join(known)}; this model's strategy is {strategy}."


def choose(only: list[str], strategy: str) -> tuple[list[Analysis], list[str]]:
    """The analyses to run, and a sentence for each that does not apply.

    Args:
        only: names; none means all.
        strategy: of the model.

    Raises:
        ValueError: a name is unknown, or was asked for and does not apply.
    """
    for name in only:
        if name not in ANALYSES:
            raise ValueError(f"Unknown analysis {name!r}: expected one of {', '.join(ANALYSES)}.")
        reason = why_not(ANALYSES[name], strategy)
        if reason:
            raise ValueError(reason)
    chosen = [analysis for name, analysis in ANALYSES.items() if name in only or not only]
    reasons = [why_not(analysis, strategy) for analysis in chosen]
    applicable = [analysis() for analysis, reason in zip(chosen, reasons, strict=True) if reason is None]
    return applicable, [reason for reason in reasons if reason is not None]
