"""Image-caption sources, and the endless, seeded, resumable stream of training examples made from one."""

from .sources import BrokenExampleError, FolderSource, HuggingFaceSource, ScenesSource, Source, SourceConfig
from .stream import Batch, ExampleStream, collate

__all__ = [
    "Batch",
    "BrokenExampleError",
    "ExampleStream",
    "FolderSource",
    "HuggingFaceSource",
    "ScenesSource",
    "Source",
    "SourceConfig",
    "collate",
]
