"""AdamW, with a rate of its own for the fusion, and Muon for the blocks' matrices if wanted, as one optimizer."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..io.precision import Precision
from .config import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, transformer: nn.Module, precision: Precision = "float32"
) -> torch.optim.Optimizer:
    """What `config` asks for, over all parameters of a transformer; `precision` is Muon's.

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
            precision=precision,
        )
        parts.append(muon)
    return CombinedOptimizer(parts)


def takes_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix of a block's attention or MLP, in our models as in hosts.

    Modulations, which hosts keep in their norms, start near zero for a reason, and tables are no matrices.
    """
    matrix = parameter.ndim == 2 and name.endswith(".weight") and "modulation" not in name and "norm" not in name
    return matrix and re.search(r"(blocks|layers)\.\d+\.", name) is not None


class SharedMuon(torch.optim.Muon):
    """Muon whose matrices are dealt out to the processes: each makes the new weights of its own and sends them.

    Every process has the same gradients, so it need not orthogonalize all of them. Momentum, which is cheap, is kept
    by every process, so that the checkpoint that one of them writes is whole. In bfloat16 the weights are those of
    `torch.optim.Muon` to the bit. That one knows bfloat16 alone, and takes the step where weights are sharded.

    Args:
        matrices: what is trained.
        lr: updates have the size that AdamW's have at the same rate.
        weight_decay: share of the weights, times the rate, that goes each step.
        precision: that matrices are orthogonalized in.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.1, precision: Precision = "bfloat16"
    ) -> None:
        super().__init__(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
        self.precision: torch.dtype = getattr(torch, precision)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; the caller has computed the gradients."""
        (group,) = self.param_groups
        matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
        if any(isinstance(matrix, DTensor) for matrix in matrices):
            return super().step(closure)  # type: ignore[no-untyped-call]
        joined = dist.is_available() and dist.is_initialized()
        count, own = (dist.get_world_size(), dist.get_rank()) if joined else (1, 0)
        matrices.sort(key=lambda matrix: matrix.numel() * min(matrix.shape), reverse=True)
        lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        for number, matrix in enumerate(matrices):
            mean = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
            mean.lerp_(matrix.grad, 1 - momentum)
            if number % count == own:
                update = orthogonalize(matrix.grad.lerp(mean, momentum), group, self.precision)
                matrix.mul_(1 - lr * decay).add_(update, alpha=-0.2 * lr * math.sqrt(max(matrix.shape)))
        for rank in range(count) if count > 1 else ():
            _send(matrices[rank::count], rank)
        return None


def orthogonalize(
    gradient: Float[Tensor, "rows columns"], options: Mapping[str, Any], precision: torch.dtype
) -> Float[Tensor, "rows columns"]:
    """A matrix with the gradient's singular vectors and singular values near one, by Newton-Schulz iterations.

    It is what `torch.optim.Muon` computes in bfloat16, where float32 takes a fraction of the time on many processors.
    """
    a, b, c = options["ns_coefficients"]
    wide = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    x = wide.to(precision)
    x = x / x.norm().clamp(min=options["eps"])
    for _ in range(options["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if wide is not gradient else x


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
