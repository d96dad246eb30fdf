"""The analyses that come with the project, in the report's order."""

# isort: off
from .weights import Weights
from .similarity import Similarity
from .trend import Trend
from .drift import Drift
from .trajectory import TrajectoryAnalysis
from .shift import Shift
from .usage import Usage
from .prompt import Prompt
from .overhead import Overhead
# isort: on

from .base import ANALYSES, choose

__all__ = [
    "ANALYSES",
    "Drift",
    "Overhead",
    "Prompt",
    "Shift",
    "Similarity",
    "TrajectoryAnalysis",
    "Trend",
    "Usage",
    "Weights",
    "choose",
]
