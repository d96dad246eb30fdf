"""The paper's family: convex mixtures of normalized layers, H_cond = Σ_l softmax(z)_l · LN(H^(l)) (eq. 2, 3).

penultimate  B1  the layer before the last
uniform      B2  z = 0
static       B3  z = β
time-wise    S1  z = g(φ(t))
depth-wise   S2  z = β_d
joint        S3  z = g_d(φ(t))

and a control, scaled-time, z = g_d(φ(1000 t)).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .combine import combine, fuse, normalize
from .contract import FUSIONS, NUM_TRAIN_TIMESTEPS, FusionSizes, Moment, Prepared, TextFusion
from .gate import TIME_CHANNELS, Gate

Logits = Float[Tensor, "blocks #batch #text_tokens layers"]
MOST_RANK = 4096


class RoutedFusion(TextFusion):
    """Mixes normalized layers by the softmax of logits, which a subclass gives.

    `layer_axes` names the axis over layers of each parameter that has one, so that `keep_layers` can cut it. A subclass
    whose weights are no softmax, and need not sum to 1, says `convex = False`.
    """

    layer_axes: ClassVar[dict[str, int]] = {}
    convex: ClassVar[bool] = True

    def __init__(self, sizes: FusionSizes, **options: object) -> None:
        super().__init__(sizes)
        self.options = options

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """z; axes that it does not vary with have length 1."""
        raise NotImplementedError

    def prepare(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        mask: Tensor | None = None,
        reused: bool = False,
    ) -> Prepared:
        """See `TextFusion.prepare`; features are normalized now if they are fused more than once, or read by token."""
        prepared = super().prepare(hidden_states, mask)
        again = reused and bool(self.varies_with & {"timestep", "state"})
        if again or "token" in self.varies_with:
            return prepared._replace(features=normalize(prepared.features), normalized=True)
        return prepared

    def forward(self, prepared: Prepared, moment: Moment) -> Float[Tensor, "blocks batch text_tokens text_channels"]:
        """The mixtures of all blocks."""
        weights = self.layer_weights(prepared, moment)
        if prepared.scale != 1:
            mean = 1 / weights.shape[-1]
            weights = mean + prepared.scale * (weights - mean)
        if prepared.gains is not None:
            weights = weights * prepared.gains
        return (combine if prepared.normalized else fuse)(weights, prepared.features)

    def layer_weights(
        self, prepared: Prepared | None, moment: Moment
    ) -> Float[Tensor, "blocks #batch #text_tokens layers"]:
        """The fusion weights α = softmax(z), float32."""
        # float32: with 36 layers a bfloat16 softmax could not tell weights that differ by less than a hundredth.
        return torch.softmax(self.logits(prepared, moment).float(), dim=-1)

    def keep_layers(self, indices: Sequence[int]) -> "RoutedFusion":
        """The same logits for fewer layers: their softmax renormalizes the weights.

        Raises:
            ValueError: `layer_axes` lacks a parameter that has an axis over layers.
        """
        smaller = type(self)(self.sizes._replace(num_layers=len(indices)), **self.options)
        state = self.state_dict()
        for name, axis in self.layer_axes.items():
            state[name] = state[name].index_select(axis, torch.tensor(list(indices), device=state[name].device))
        for name, tensor in smaller.state_dict().items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"{type(self).__name__} cannot drop layers: layer_axes does not name the axis over layers of "
                    f"{name}, which has the shape {tuple(state[name].shape)} and should have {tuple(tensor.shape)}."
                )
        smaller.load_state_dict(state, assign=True)
        return smaller


@FUSIONS.register("penultimate")
class Penultimate(RoutedFusion):
    """B1: the layer before the last, nothing fused. Given a single layer, that one."""

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)

    @classmethod
    def layers_read(cls, num_layers: int, num_blocks: int, **options: object) -> list[int]:
        """The one layer before the last."""
        return [max(num_layers - 2, 0)]

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """All weight on one layer."""
        number = torch.arange(self.sizes.num_layers, device=moment.timestep.device)
        chosen = number == self.layers_read(*self.sizes[:2])[0]
        return torch.zeros(number.shape, device=number.device).masked_fill(~chosen, -torch.inf)[None, None, None]


@FUSIONS.register("uniform")
class Uniform(RoutedFusion):
    """B2: the plain mean over layers."""

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """z = 0."""
        return torch.zeros(1, 1, 1, self.sizes.num_layers, device=moment.timestep.device)


@FUSIONS.register("static")
class Static(RoutedFusion):
    """B3: one learned vector β for all blocks and times."""

    layer_axes: ClassVar[dict[str, int]] = {"beta": 0}

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.beta = nn.Parameter(torch.zeros(sizes.num_layers))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """z = β."""
        return self.beta[None, None, None]


@FUSIONS.register("depth-wise")
class DepthWise(RoutedFusion):
    """S2: a learned vector β_d for each block."""

    varies_with = frozenset({"block"})
    layer_axes: ClassVar[dict[str, int]] = {"beta": 1}

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        self.beta = nn.Parameter(torch.zeros(sizes.num_blocks, sizes.num_layers))

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """z_d = β_d."""
        return self.beta[:, None, None]


class GatedFusion(RoutedFusion):
    """Logits from gates that see the time.

    Args:
        sizes: what it is built for.
        time_channels: width of the timestep's embedding.
    """

    # What a gate sees is the timestep over this.
    time_unit: ClassVar[float] = NUM_TRAIN_TIMESTEPS
    layer_axes: ClassVar[dict[str, int]] = {"gate.weight_out": 1, "gate.bias_out": 1}

    def __init__(self, sizes: FusionSizes, time_channels: int = TIME_CHANNELS) -> None:
        super().__init__(sizes, time_channels=time_channels)
        num_gates = sizes.num_blocks if "block" in self.varies_with else 1
        self.gate = Gate(sizes.num_layers, num_gates, time_channels)

    def logits(self, prepared: Prepared | None, moment: Moment) -> Logits:
        """z_t = g(φ(t)), or z_{t,d} = g_d(φ(t))."""
        return self.gate(moment.timestep.float() / self.time_unit)[:, :, None]


@FUSIONS.register("time-wise")
class TimeWise(GatedFusion):
    """S1: one gate g for all blocks."""

    varies_with = frozenset({"timestep"})


@FUSIONS.register("joint")
class Joint(GatedFusion):
    """S3: a gate g_d for each block."""

    varies_with = frozenset({"block", "timestep"})


@FUSIONS.register("scaled-time")
class ScaledTime(Joint):
    """A control for `joint`: z_{t,d} = g_d(φ(1000 t)).

    The paper's φ (eq. 12) has frequencies of at most 1 and sees t in [0, 1], so that most of its inputs hardly move.
    Here they move as in other diffusion models. Varies with block and timestep; costs what `joint` costs.
    """

    time_unit = 1.0


PAPER_STRATEGIES = ("penultimate", "uniform", "static", "time-wise", "depth-wise", "joint")


def check_rank(rank: int) -> None:
    """Refuses a rank that no projection has.

    Raises:
        ValueError: it is not between 1 and `MOST_RANK`.
    """
    if not 1 <= rank <= MOST_RANK:
        raise ValueError(f"rank must be 1 to {MOST_RANK}, not {rank}.")
