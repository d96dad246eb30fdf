"""The diffusion transformer with semantic routing (paper, sections 3 and 4.1)."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 (`diffusers` looks for it beside the model)
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..fusion import FUSIONS, Moment, Prepared, fuse_with_gains
from ..fusion.contract import make_fusion
from ..fusion.saved import current_name, find_fusion, fusion_sizes
from ..io.arguments import check_arguments
from ..io.registry import source_of
from .attention import KeyValue, RMSNorm
from .backbone import DiffusionTransformer2DModel, TextContext, check_sizes
from .block import RoutedBlock
from .timestep import INITIALIZER_STD
from .tokens import TextTokens


class ContextEmbedder(nn.Module):
    """RMS norm and a linear layer on the fused text, shared by all blocks; small normal weights at the start."""

    def __init__(self, in_channels: int, out_channels: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(in_channels, norm_eps)
        self.linear = nn.Linear(in_channels, out_channels)
        nn.init.normal_(self.linear.weight, std=INITIALIZER_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, context: Float[Tensor, "*batch in_channels"]) -> Float[Tensor, "*batch out_channels"]:
        """Acts on the last axis."""
        return self.linear(self.norm(context))


class StateContext(NamedTuple):
    """Text of a fusion that reads the image; see `ContextOfState`."""

    transformer: "SemanticRoutingTransformer2DModel"
    prepared: Prepared
    timestep: Float[Tensor, " #batch"]
    tokens: TextTokens

    def of_block(self, number: int, state: Tensor | None) -> Tensor | KeyValue:
        """The context of block `number`, without padding: `roles heads real_tokens channels`."""
        return self.transformer.contexts(self.prepared, Moment(self.timestep, state, number), self.tokens)[0]

    def rows(self, index: Int[Tensor, " rows"]) -> "StateContext":
        """Of the prompts at `index`, which may repeat."""
        timestep = self.timestep if len(self.timestep) == 1 else self.timestep[index]
        return self.transformer.state_context(self.prepared.rows(index), timestep)


class SemanticRoutingTransformer2DModel(DiffusionTransformer2DModel):
    """A DiT whose blocks cross-attend to what a fusion makes of all language-model layers.

    For one seed all strategies start from the same backbone: it is initialized before and apart from the fusion.

    Args:
        strategy: fusion strategy, a name of `semantic_routing.fusion.FUSIONS`.
        fusion_options: options of the strategy.
        fusion_source: where the strategy is defined, for the error message of a program that has not imported it; it
            is filled in when the model is made.
        context_channels: width of what blocks read, which the context embedder makes; None is that of the language
            model. It is the dial that gives models of different strategies equally many parameters.
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
    _keep_in_fp32_modules: ClassVar[list[str]] = ["fusion"]

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
        fusion_options: Mapping[str, object] | None = None,
        fusion_source: str | None = None,
        context_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(self.config)
        self._add_input()
        width = context_channels or text_channels
        self.blocks = nn.ModuleList(
            RoutedBlock(text_channels=width, **self._block_options()) for _ in range(num_blocks)
        )
        self._add_output()
        # Whatever the fusion draws, the context embedder starts the same.
        with torch.random.fork_rng(devices=[]):
            kind = find_fusion(strategy, fusion_source)
            check_arguments(kind, fusion_options or {}, f"Fusion strategy {strategy!r}")
            self.fusion = make_fusion(strategy, kind, fusion_sizes(self.config), fusion_options or {})
        self.context_embedder = ContextEmbedder(self.fusion.out_channels, width, norm_eps)
        self.register_to_config(fusion_source=source_of(type(self.fusion)))

    @classmethod
    def layers_read(
        cls, layers: list[int], num_blocks: int, strategy: str | None, fusion_options: Mapping[str, object]
    ) -> list[int]:
        """The layers that the fusion can read."""
        read = FUSIONS.find(str(strategy)).layers_read(len(layers), num_blocks, **fusion_options)
        return [layers[index] for index in read]

    @property
    def varies_with(self) -> frozenset[str]:
        """What the fusion's context varies with."""
        return self.fusion.varies_with

    @apply_forward_hook
    def prepare_text(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        mask: Tensor | None = None,
        reused: bool = False,
    ) -> Prepared:
        """What depends on the prompts alone; see `TextFusion.prepare`."""
        return self.fusion.prepare(hidden_states, mask, reused)

    @apply_forward_hook
    def text_context(
        self, prepared: Prepared, timestep: Float[Tensor, " #batch"], cache: bool = False
    ) -> TextContext | StateContext:
        """What all blocks read of the prompts at the timesteps of the rows, or at one for all rows.

        With `cache` it goes down to keys and values, which leaves no text work to the steps that it serves.
        """
        if "state" in self.varies_with:
            return self.state_context(prepared, timestep)
        tokens = _tokens_of(prepared)
        every = self.contexts(prepared, Moment(timestep), tokens)
        contexts = list(every.expand(len(self.blocks), *every.shape[1:]))
        if not cache:
            return TextContext(contexts, tokens)
        blocks = (block for block in self.blocks if isinstance(block, RoutedBlock))
        pairs = zip(blocks, contexts, strict=True)
        return TextContext([block.key_value(context, tokens) for block, context in pairs], tokens)

    def state_context(self, prepared: Prepared, timestep: Float[Tensor, " #batch"]) -> StateContext:
        """The same for a fusion that reads the image, which makes each block's context in the step."""
        return StateContext(self, prepared, timestep, _tokens_of(prepared))

    def contexts(
        self, prepared: Prepared, moment: Moment, tokens: TextTokens
    ) -> Float[Tensor, "blocks roles heads real_tokens context_channels"]:
        """What blocks read: of all, of `moment.block` alone, or one for all."""
        fused = self.context_embedder(tokens.pack(fuse_with_gains(self.fusion, prepared, moment)))
        return fused.unflatten(0, (-1, *self.fusion.readers))

    def auxiliary_loss(self) -> Float[Tensor, " batch"] | None:
        """What the fusion adds to each example's loss; see `TextFusion.auxiliary_loss`."""
        return self.fusion.auxiliary_loss()

    def _fix_state_dict_keys_on_load(self, state_dict: dict[str, Tensor]) -> None:
        """Renames what version 0.1 saved."""
        for name in list(state_dict):
            state_dict[current_name(name)] = state_dict.pop(name)


def _tokens_of(prepared: Prepared) -> TextTokens:
    return TextTokens.of(prepared.mask, len(prepared.features), prepared.features.shape[2], prepared.blank)
