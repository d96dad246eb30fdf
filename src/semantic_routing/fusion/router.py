"""A fusion by its name, for somebody's own diffusion model."""

from jaxtyping import Float
from torch import Tensor, nn

from .contract import FUSIONS, FusionSizes, Moment, Prepared, check_fusion, make_fusion
from .gains import fuse_with_gains


class SemanticRouter(nn.Module):
    """Learns which language-model layers each block, at each time, listens to.

    Args:
        strategy: a name of `FUSIONS`.
        num_layers: language-model layers in the hidden states.
        num_blocks: blocks of the diffusion model.
        text_channels: width of the hidden states, for strategies that need to know it.
        state_channels: width of the image tokens, for strategies that read them.
        num_heads: key/value heads of a block, for strategies that make a context for each.
        options: of the strategy.

    Raises:
        ValueError: the strategy is unknown, or there is no layer or no block.
    """

    def __init__(
        self,
        strategy: str,
        num_layers: int,
        num_blocks: int,
        text_channels: int | None = None,
        state_channels: int | None = None,
        num_heads: int | None = None,
        **options: object,
    ) -> None:
        super().__init__()
        sizes = FusionSizes(num_layers, num_blocks, text_channels, state_channels, num_heads)
        self.fusion = make_fusion(strategy, FUSIONS.find(strategy), sizes, options)
        check_fusion(self.fusion, strategy)

    def prepare(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        mask: Tensor | None = None,
        reused: bool = False,
    ) -> Prepared:
        """Does what depends on the prompts alone; see `TextFusion.prepare`."""
        return self.fusion.prepare(hidden_states, mask, reused)

    def forward(
        self,
        prepared: Prepared,
        timestep: Float[Tensor, " #batch"],
        state: Float[Tensor, "batch state_channels"] | None = None,
        block: int | None = None,
    ) -> Float[Tensor, "blocks batch text_tokens out_channels"]:
        """The context of all blocks; `blocks` is 1 where it is the same for all, see `TextFusion.forward`.

        Args:
            prepared: from `prepare()`, perhaps with `gains`.
            timestep: in [0, 1000], one a prompt or a single one for all.
            state: of strategies that read the image: the mean of a block's image tokens.
            block: of these: the block whose context is wanted.
        """
        return fuse_with_gains(self.fusion, prepared, Moment(timestep, state, block))

    def layer_weights(
        self, timestep: Float[Tensor, " #batch"], prepared: Prepared | None = None
    ) -> Float[Tensor, "blocks #batch #text_tokens layers"] | None:
        """The fusion weights, for diagnosis; see `TextFusion.layer_weights`."""
        return self.fusion.layer_weights(prepared, Moment(timestep))
