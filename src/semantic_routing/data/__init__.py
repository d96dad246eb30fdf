"""Image-caption sources, and the endless, seeded, resumable stream of training examples made from one."""

from .broken import BrokenExamples
from .latents import LatentsSource
from .parquet import ParquetSource
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
from .webdataset import WebDatasetSource

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
    "ParquetSource",
    "ScenesSource",
    "Source",
    "SourceConfig",
    "WebDatasetSource",
    "collate",
]
