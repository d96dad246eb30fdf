"""AdamW, with a rate of its own for the fusion, and Muon for the blocks' matrices if wanted, as one optimizer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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
        muon = SharedMuon(
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


class SharedMuon(torch.optim.Muon):
    """Muon whose matrices are dealt out to the processes: each makes the new weights of its own and sends them.

    Every process has the same gradients, so it need not orthogonalize all of them. Momentum, which is cheap, is kept
    by every process, so that the checkpoint that one of them writes is whole. The weights are those of
    `torch.optim.Muon` to the bit, which one process alone uses, and sharded weights.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; `closure` is not taken where there are several processes."""
        (group,) = self.param_groups
        matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
        count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if count == 1 or any(isinstance(matrix, DTensor) for matrix in matrices):
            return super().step(closure)  # type: ignore[no-untyped-call]
        matrices.sort(key=lambda matrix: matrix.numel() * min(matrix.shape), reverse=True)
        shares = [matrices[rank::count] for rank in range(count)]
        own = {id(matrix) for matrix in shares[dist.get_rank()]}
        gradients = {matrix: matrix.grad for matrix in matrices if id(matrix) not in own and matrix.grad is not None}
        for matrix, gradient in gradients.items():
            momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(gradient))
            momentum.lerp_(gradient, 1 - group["momentum"])
            matrix.grad = None  # passed over by the step
        super().step()  # type: ignore[no-untyped-call]
        for matrix, gradient in gradients.items():
            matrix.grad = gradient
        for rank, share in enumerate(shares):
            _send(share, rank)
        return None


def _send(matrices: Sequence[Tensor], sender: int) -> None:
    """Gives all processes the values that one of them has, in one message."""
    if matrices:
        values = torch.cat([matrix.flatten() for matrix in matrices])
        dist.broadcast(values, src=sender)
        parts = torch.split(values, [matrix.numel() for matrix in matrices])
        for matrix, own in zip(matrices, parts, strict=True):
            matrix.copy_(own.view_as(matrix))


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
