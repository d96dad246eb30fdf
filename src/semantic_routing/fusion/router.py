"""The router: hidden states of all language-model layers in, the context of every block out."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .combine import combine, fuse, normalize
from .strategies import STRATEGIES

NUM_TRAIN_TIMESTEPS = 1000


class PreparedText(NamedTuple):
    """What depends on the prompt alone: features, and which of their tokens are real (None: all).

    Features that will be fused many times are normalized already, others will be while they are fused.
    """

    features: Float[Tensor, "batch layers text_tokens text_channels"]
    mask: Bool[Tensor, "batch text_tokens"] | None
    normalized: bool


class SemanticRouter(nn.Module):
    """Learns which language-model layers each block, at each time, listens to.

    Args:
        strategy: a name of `STRATEGIES`.
        num_layers: language-model layers in the hidden states.
        num_blocks: blocks of the diffusion model.

    Raises:
        ValueError: the strategy is unknown, or there is no layer or no block.
    """

    def __init__(self, strategy: str, num_layers: int, num_blocks: int) -> None:
        super().__init__()
        if strategy not in STRATEGIES:
            raise ValueError(f"Unknown fusion strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}.")
        if num_layers < 1 or num_blocks < 1:
            raise ValueError(f"A router needs at least 1 layer and 1 block, not {num_layers} and {num_blocks}.")
        self.num_layers = num_layers
        self.num_blocks = num_blocks
        self.strategy = STRATEGIES[strategy](num_layers, num_blocks)

    @property
    def depends_on_time(self) -> bool:
        """Whether the context must be computed anew in each sampling step."""
        return self.strategy.depends_on_time

    @property
    def depends_on_depth(self) -> bool:
        """Whether each block has a context of its own."""
        return self.strategy.depends_on_depth

    def weights(self, timestep: Float[Tensor, " batch"]) -> Float[Tensor, "blocks batch layers"]:
        """The fusion weights α at timesteps in [0, 1000], float32; `blocks` is 1 without depth dependence.

        To let the gate see another time than the backbone (the paper's eq. 11), pass that time here.
        """
        weights = self._softmax(timestep)
        return weights.expand(-1, timestep.shape[0], -1)

    def prepare(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        mask: Bool[Tensor, "batch text_tokens"] | None = None,
    ) -> PreparedText:
        """Does what depends on the prompt alone: cuts padding to the longest prompt, and normalizes for sampling.

        Args:
            hidden_states: features of `num_layers` layers, shallow first.
            mask: true for real tokens; a row without any reads all its positions. Without a mask all tokens are real.
        """
        if hidden_states.shape[1] != self.num_layers:
            raise ValueError(f"The router was built for {self.num_layers} layers and got {hidden_states.shape[1]}.")
        if mask is not None:
            mask = mask | ~mask.any(dim=1, keepdim=True)  # softmax over no token at all would be NaN
            length = int(mask.any(dim=0).nonzero().max()) + 1
            hidden_states, mask = hidden_states[:, :, :length], mask[:, :length]
        # A gate that sees the time has the text fused anew in every step of sampling. In training it is fused once.
        if self.depends_on_time and not torch.is_grad_enabled():
            return PreparedText(normalize(hidden_states), mask, normalized=True)
        return PreparedText(hidden_states, mask, normalized=False)

    def forward(
        self,
        prepared: PreparedText,
        timestep: Float[Tensor, " #batch"] | None = None,
        weights: Float[Tensor, "blocks #batch layers"] | None = None,
    ) -> Float[Tensor, "blocks batch text_tokens text_channels"]:
        """The context of all blocks; `blocks` is 1 without depth dependence.

        Args:
            prepared: from `prepare()`.
            timestep: one a prompt, or a single one for all of them.
            weights: from `weights()`, in place of a timestep: a sampler needs those of all its steps only once a run.
        """
        if weights is None:
            if timestep is None:
                raise ValueError("Pass either timestep or weights; both are None.")
            weights = self._softmax(timestep)
        return (combine if prepared.normalized else fuse)(weights, prepared.features)

    def _softmax(self, timestep: Float[Tensor, " batch"]) -> Float[Tensor, "blocks #batch layers"]:
        # float32: with 36 layers a bfloat16 softmax could not tell weights that differ by less than a hundredth.
        sigma = timestep.float() / NUM_TRAIN_TIMESTEPS
        return torch.softmax(self.strategy(sigma).float(), dim=-1)
