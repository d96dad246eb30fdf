"""Training on `accelerate`: one step, one loop, checkpoints that resume bit for bit."""

from .trainer import DataWorkerError, NonFiniteLossError, TrainingError, train

__all__ = ["DataWorkerError", "NonFiniteLossError", "TrainingError", "train"]
