"""Image-caption sources, and the endless, seeded, resumable stream of training examples made from one."""

from .broken import BrokenExamples
from .latents import LatentsSource
from .sources import BrokenExampleError, FolderSource, HuggingFaceSource, ScenesSource, Source, SourceConfig
from .stream import Batch, ExampleStream, collate

__all__ = [
    "Batch",
    "BrokenExampleError",
    "BrokenExamples",
    "ExampleStream",
    "FolderSource",
    "HuggingFaceSource",
    "LatentsSource",
    "ScenesSource",
    "Source",
    "SourceConfig",
    "collate",
]
