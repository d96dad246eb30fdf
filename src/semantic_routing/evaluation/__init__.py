"""Benchmarks, the runner that samples and scores them, and comparisons of what they come to.

Importing this registers our benchmarks and does not import torch.
"""

from .benchmark import BENCHMARKS, Benchmark, DetectorBenchmark
from .drawbench import DrawBench
from .genai_bench import GenAIBench
from .geneval.benchmark import GenEval
from .judges import JUDGES
from .questions import QuestionBenchmark
from .scenes import Scenes

__all__ = [
    "BENCHMARKS",
    "JUDGES",
    "Benchmark",
    "DetectorBenchmark",
    "DrawBench",
    "GenAIBench",
    "GenEval",
    "QuestionBenchmark",
    "Scenes",
]
