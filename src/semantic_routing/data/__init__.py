"""Image-caption sources, and the endless, seeded, resumable stream of training examples made from one."""

from .broken import BrokenExamples
from .latents import LatentsSource
from .sources import (
    SOURCES,
    BrokenExampleError,
    Example,
    FolderSource,
    HuggingFaceSource,
    ScenesSource,
    Source,
    SourceConfig,
)
from .stream import Batch, ExampleStream, collate

__all__ = [
    "SOURCES",
    "Batch",
    "BrokenExampleError",
    "BrokenExamples",
    "Example",
    "ExampleStream",
    "FolderSource",
    "HuggingFaceSource",
    "LatentsSource",
    "ScenesSource",
    "Source",
    "SourceConfig",
    "collate",
]
