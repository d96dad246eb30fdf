"""Training on `accelerate`: one step, one loop, checkpoints that resume bit for bit."""

from .trainer import NonFiniteLossError, train

__all__ = ["NonFiniteLossError", "train"]
