"""The paper's figures and tables from a trained model, and one report of them all."""

# The report's order.
# isort: off
from .weights import Weights
from .similarity import Similarity
from .trend import Trend
from .drift import Drift
from .trajectory import TrajectoryAnalysis
from .shift import Shift
from .usage import Usage
from .knob import Knob
from .words import Words
from .prompt import Prompt
from .overhead import Overhead
# isort: on

from .base import ANALYSES, Analysis
from .model import AnalysisOptions, SavedModel

__all__ = [
    "ANALYSES",
    "Analysis",
    "AnalysisOptions",
    "Drift",
    "Knob",
    "Overhead",
    "Prompt",
    "SavedModel",
    "Shift",
    "Similarity",
    "TrajectoryAnalysis",
    "Trend",
    "Usage",
    "Weights",
    "Words",
]
