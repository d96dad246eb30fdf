"""AdamW, with a rate of its own for the fusion, and Muon for the blocks' matrices if wanted, as one optimizer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, transformer: nn.Module) -> torch.optim.Optimizer:
    """What `config` asks for, over all parameters of a transformer.

    AdamW moves a logit by about its learning rate a step and no further, whatever the gradient. In a short run a router
    can therefore hardly leave the mean, so the fusion has a rate of its own. Its parameters do not decay: decay would
    pull the weights back to the mean.
    """
    parameters = {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    fusion = [parameters.pop(name) for name in list(parameters) if name.startswith("fusion.")]
    matrices = []
    if config.muon_learning_rate is not None:
        matrices = [parameters.pop(name) for name in list(parameters) if takes_muon(name, parameters[name])]

    def adamw(own: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(own, learning_rate, config.betas, weight_decay=weight_decay, fused=True)

    parts = []
    if parameters:
        parts.append(adamw(parameters.values(), config.learning_rate, config.weight_decay))
    if fusion:
        parts.append(adamw(fusion, config.fusion_learning_rate or config.learning_rate, 0.0))
    if matrices:
        muon = torch.optim.Muon(
            matrices,
            lr=config.muon_learning_rate or 0.0,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",  # updates of the size that AdamW's have at the same rate
        )
        parts.append(muon)
    return CombinedOptimizer(parts)


def takes_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix of attention or MLP: not a modulation, which starts at zero for a reason."""
    return name.startswith("blocks.") and parameter.ndim == 2 and "modulation" not in name


class CombinedOptimizer(torch.optim.Optimizer):
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
