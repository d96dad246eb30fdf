"""Benchmarks, the runner that samples and scores them, and comparisons of what they come to.

Importing this registers our benchmarks and does not import torch.
"""

from .benchmark import BENCHMARKS, Benchmark, DetectorBenchmark, Json, Scores
from .captioned_images import CaptionedImages
from .drawbench import DrawBench
from .genai_bench import GenAIBench
from .geneval.benchmark import GenEval
from .geneval2 import GenEval2
from .image_files import FlatFolder, NumberedFolders
from .judges import JUDGES
from .questions import QuestionBenchmark
from .result import Measure
from .sampler import Sampler
from .scenes import Scenes

__all__ = [
    "BENCHMARKS",
    "JUDGES",
    "Benchmark",
    "CaptionedImages",
    "DetectorBenchmark",
    "DrawBench",
    "FlatFolder",
    "GenAIBench",
    "GenEval",
    "GenEval2",
    "Json",
    "Measure",
    "NumberedFolders",
    "QuestionBenchmark",
    "Sampler",
    "Scenes",
    "Scores",
]
