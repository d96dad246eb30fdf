"""Training on `accelerate`: one step, one loop, checkpoints that resume bit for bit."""

from ..data.workers import DataWorkerError
from .host import adapt
from .host_config import AdaptConfig, adapt_config
from .trainer import NonFiniteLossError, TrainingError, train

__all__ = ["AdaptConfig", "DataWorkerError", "NonFiniteLossError", "TrainingError", "adapt", "adapt_config", "train"]
