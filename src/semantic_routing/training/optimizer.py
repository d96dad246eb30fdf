"""AdamW; or Muon for the matrices of the blocks and AdamW for everything else, as one optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, transformer: nn.Module) -> torch.optim.Optimizer:
    """What `config` asks for, over all parameters of a transformer."""
    adamw: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "fused": True,
    }
    if config.muon_learning_rate is None:
        return torch.optim.AdamW(transformer.parameters(), **adamw)
    named = dict(transformer.named_parameters())
    matrices = {name: parameter for name, parameter in named.items() if takes_muon(name, parameter)}
    others = [parameter for name, parameter in named.items() if name not in matrices]
    muon = torch.optim.Muon(
        matrices.values(),
        lr=config.muon_learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",  # updates of the size that AdamW's have at the same rate
    )
    return Together([muon, torch.optim.AdamW(others, **adamw)])


def takes_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix of attention or MLP: not a modulation, which starts at zero for a reason."""
    return name.startswith("blocks.") and parameter.ndim == 2 and "modulation" not in name


class Together(torch.optim.Optimizer):
    """Several optimizers behind one `state` and one list of `param_groups`.

    Schedules, checkpoints and sharding then see a single optimizer.

    Args:
        parts: each with its own parameters, in one group.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self.parts, self.param_groups, strict=True):
            # Anew each time: loading a checkpoint replaces both.
            part.state, part.param_groups = self.state, [group]
            part.step()
        return loss
