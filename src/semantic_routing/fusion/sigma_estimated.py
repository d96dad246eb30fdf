"""The gate of `joint`, fed with a noise level that is read off the image."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .contract import FUSIONS, NUM_TRAIN_TIMESTEPS, FusionSizes, Moment, Prepared
from .gate import TIME_CHANNELS, Gate
from .routed import Logits, RoutedFusion


@FUSIONS.register("sigma-estimated")
class SigmaEstimated(RoutedFusion):
    """z_d = g_d(φ(σ_d)), where σ_d = sigmoid(v_d · s_d + c_d) estimates the noise level from the block's state s_d.

    In sampling the latent's noise level is not what the timestep says (paper, section 5.2), but it can be read off the
    latent (arXiv 2502.13129, 2602.18428). The estimate is trained beside, by its squared error in training, where the
    timestep is right; neither it nor its error reaches the gate or the image tokens as a gradient. Is `joint` where the
    estimate is right. Varies with block and state, so that each block's context, keys and values are made anew in each
    step. Costs blocks · (state_channels + 1) parameters more than `joint`.

    Args:
        sizes: what it is built for, with `state_channels`.
        time_channels: width of the noise level's embedding.

    Raises:
        ValueError: the width of the state is not known.
    """

    varies_with = frozenset({"block", "state"})
    layer_axes: ClassVar[dict[str, int]] = {"gate.weight_out": 1, "gate.bias_out": 1}

    def __init__(self, sizes: FusionSizes, time_channels: int = TIME_CHANNELS) -> None:
        super().__init__(sizes, time_channels=time_channels)
        self.gate = Gate(sizes.num_layers, sizes.num_blocks, time_channels)
        self.direction = nn.Parameter(torch.zeros(sizes.num_blocks, self.state_channels))
        self.offset = nn.Parameter(torch.zeros(sizes.num_blocks))
        self.errors: dict[int, Float[Tensor, " batch"]] = {}

    def sigma(self, moment: Moment) -> Float[Tensor, " batch"]:
        """The estimate of `moment.block`."""
        state, block = self.state_of(moment)
        with torch.autocast(state.device.type, enabled=False):
            return torch.sigmoid(state.detach() @ self.direction[block].float() + self.offset[block])

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """Of `moment.block`: `1 batch 1 layers`."""
        _, block = self.state_of(moment)
        return self.gate(self.sigma(moment).detach(), slice(block, block + 1))[:, :, None]

    def forward(self, prepared: Prepared, moment: Moment) -> Float[Tensor, "1 batch text_tokens text_channels"]:
        """The mixture of `moment.block`; in training it also remembers the error of the estimate."""
        if self.training and torch.is_grad_enabled():
            _, block = self.state_of(moment)
            self.errors[block] = (self.sigma(moment) - moment.timestep.float() / NUM_TRAIN_TIMESTEPS).square()
        return super().forward(prepared, moment)

    def auxiliary_loss(self) -> Float[Tensor, " batch"] | None:
        """The squared error of the noise level, a mean over blocks."""
        errors, self.errors = self.errors, {}
        return torch.stack(list(errors.values())).mean(0) if errors else None
