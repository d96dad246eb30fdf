"""The diffusion transformer with semantic routing (paper, sections 3 and 4.1)."""

from typing import Any, ClassVar, cast

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 (`diffusers` looks for it beside the model)
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..fusion import STRATEGIES, PreparedText, SemanticRouter
from .attention import RMSNorm
from .backbone import DiffusionTransformer2DModel, TextContext, check_sizes
from .block import RoutedBlock
from .timestep import INITIALIZER_STD
from .tokens import TextTokens


class ContextEmbedder(nn.Module):
    """RMS norm and a linear layer on the fused text, shared by all blocks."""

    def __init__(self, channels: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, norm_eps)
        self.linear = nn.Linear(channels, channels)

    def reset_parameters(self) -> None:
        """Small normal weights."""
        nn.init.normal_(self.linear.weight, std=INITIALIZER_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, context: Float[Tensor, "*batch text_channels"]) -> Float[Tensor, "*batch text_channels"]:
        """Acts on the last axis."""
        return self.linear(self.norm(context))


class SemanticRoutingTransformer2DModel(DiffusionTransformer2DModel):
    """A DiT whose blocks cross-attend to a routed mixture of all language-model layers.

    Args:
        strategy: fusion strategy, a name of `semantic_routing.fusion.STRATEGIES`.
        num_text_layers: language-model layers in the hidden states.
        text_channels: width of the language model.
        num_blocks: blocks.
        num_attention_heads: query heads.
        num_key_value_heads: divides the query heads.
        attention_head_dim: width of a head, divisible by 4.
        hidden_size: width of the residual stream; need not be heads x head width.
        in_channels: latent channels, in and out.
        patch_size: latent pixels a side of a token.
        sample_size: latent pixels a side that pipelines make unless told otherwise.
        mlp_ratio: inner width of the MLPs over `hidden_size`.
        timestep_conditioning: "none", "addition", "adaln-zero" or "adaln-single".
        prediction: what the output means, "velocity" (noise minus data) or "sample" (the clean latent).
        position_embedding: "rope" (2D rotary), "sincos" (an additive table of 64 x 64 patches) or "rope+sincos"
            (rotary, and sines of the place in a picture of `sample_size` added to each token: from knowing it a small
            model learns sooner).
        rope_base: base of the rotary frequencies.
        sandwich_norm: also normalize the output of every branch.
        norm_eps: of all RMS norms.

    Raises:
        ValueError: sizes that do not go together, or an unknown name.
    """

    _no_split_modules: ClassVar[list[str]] = ["RoutedBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["RoutedBlock"]
    _keep_in_fp32_modules: ClassVar[list[str]] = ["router"]
    _self_initialized = (*DiffusionTransformer2DModel._self_initialized, ContextEmbedder)

    @register_to_config
    def __init__(
        self,
        strategy: str = "depth-wise",
        num_text_layers: int = 36,
        text_channels: int = 2560,
        num_blocks: int = 24,
        num_attention_heads: int = 32,
        num_key_value_heads: int = 8,
        attention_head_dim: int = 128,
        hidden_size: int = 2048,
        in_channels: int = 16,
        patch_size: int = 2,
        sample_size: int = 32,
        mlp_ratio: float = 4.0,
        timestep_conditioning: str = "none",
        prediction: str = "velocity",
        position_embedding: str = "rope",
        rope_base: float = 10000.0,
        sandwich_norm: bool = False,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        check_sizes(self.config)
        self._add_input()
        self.router = SemanticRouter(strategy, num_text_layers, num_blocks)
        self.context_embedder = ContextEmbedder(text_channels, norm_eps)
        self.blocks = nn.ModuleList(
            RoutedBlock(text_channels=text_channels, **self._block_options()) for _ in range(num_blocks)
        )
        self._add_output()

    @classmethod
    def layers_read(cls, strategy: str, layers: list[int]) -> list[int]:
        """The layers that the strategy can give any weight."""
        return [layers[index] for index in STRATEGIES[strategy].layers_read(len(layers))]

    @property
    def text_depends_on_time(self) -> bool:
        """Whether `text_context` must be computed anew in each sampling step."""
        return self.router.depends_on_time

    def prepare_text(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        mask: Bool[Tensor, "batch text_tokens"] | None = None,
    ) -> PreparedText:
        """What depends on the prompts alone; see `SemanticRouter.prepare`."""
        return self.router.prepare(hidden_states, mask)

    @apply_forward_hook
    def fusion_weights(self, timestep: Float[Tensor, " batch"]) -> Float[Tensor, "blocks batch layers"]:
        """See `SemanticRouter.weights`."""
        return self.router.weights(timestep)

    @apply_forward_hook
    def text_context(
        self, prepared: PreparedText, weights: Float[Tensor, "blocks #batch layers"], cache: bool = False
    ) -> TextContext:
        """What all blocks read of the prompts, mixed with `weights` (of each row, or of one time for all rows).

        Without time dependence (`text_depends_on_time`) a sampler calls this once a prompt; with `cache` the result
        goes down to keys and values and leaves no text work to the step.
        """
        fused = self.router(prepared, weights=weights)
        tokens = TextTokens.of(prepared.mask, *fused.shape[1:3])
        contexts = self.context_embedder(tokens.pack(fused))
        per_block: list[Any] = list(contexts.expand(len(self.blocks), -1, -1))
        if cache:
            blocks = cast(list[RoutedBlock], self.blocks)
            per_block = [block.key_value(context, tokens) for block, context in zip(blocks, per_block, strict=True)]
        return TextContext(per_block, tokens)
