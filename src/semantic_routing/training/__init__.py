"""Training on `accelerate`: one step, one loop, checkpoints that resume bit for bit."""

from .host import adapt
from .host_config import AdaptConfig, adapt_config
from .trainer import NonFiniteLossError, train

__all__ = ["AdaptConfig", "NonFiniteLossError", "adapt", "adapt_config", "train"]
