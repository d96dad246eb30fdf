"""The diffusion transformer with semantic routing (paper, sections 3 and 4.1)."""

from typing import Any, ClassVar, NamedTuple, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PatchEmbed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..fusion import PreparedText, SemanticRouter
from .attention import KeyValue, RMSNorm
from .block import RoutedBlock
from .rotary import rotary_2d
from .timestep import (
    INITIALIZER_STD,
    OUTPUT_PARTS,
    TIMESTEP_CONDITIONINGS,
    Addition,
    LinearModulation,
    TableModulation,
)

POSITION_TABLE_SIZE = 64


class TextContext(NamedTuple):
    """What each block reads of the text: its context or, cached, the keys and values made from it; and the mask."""

    blocks: list[Tensor] | list[KeyValue]
    mask: Bool[Tensor, "batch 1 1 text_tokens"] | None


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


class SemanticRoutingTransformer2DModel(
    ModelMixin,
    AttentionMixin,
    ConfigMixin,
    PeftAdapterMixin,
    CacheMixin,
):
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
        position_embedding: "rope" (2D rotary) or "sincos" (an additive table of 64 x 64 patches).
        rope_base: base of the rotary frequencies.
        sandwich_norm: also normalise the output of every branch.
        norm_eps: of all RMS norms.

    Raises:
        ValueError: sizes that do not go together, or an unknown name.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["RoutedBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["RoutedBlock"]
    _keep_in_fp32_modules: ClassVar[list[str]] = ["router"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["patch_embed", "norm", "router"]

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
        conditioning = TIMESTEP_CONDITIONINGS[timestep_conditioning]
        self.patch_embed = PatchEmbed(
            height=sample_size,
            width=sample_size,
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=hidden_size,
            pos_embed_type="sincos" if position_embedding == "sincos" else None,
            pos_embed_max_size=POSITION_TABLE_SIZE,
        )
        self.time_embedder = conditioning(hidden_size)
        self.router = SemanticRouter(strategy, num_text_layers, num_blocks)
        self.context_embedder = ContextEmbedder(text_channels, norm_eps)
        self.blocks = nn.ModuleList(
            RoutedBlock(
                channels=hidden_size,
                text_channels=text_channels,
                num_heads=num_attention_heads,
                num_key_value_heads=num_key_value_heads,
                head_channels=attention_head_dim,
                mlp_ratio=mlp_ratio,
                modulation=conditioning.modulation,
                sandwich_norm=sandwich_norm,
                norm_eps=norm_eps,
            )
            for _ in range(num_blocks)
        )
        self.norm_out = RMSNorm(hidden_size, norm_eps)
        self.modulation_out = conditioning.modulation(hidden_size, OUTPUT_PARTS)
        self.proj_out = nn.Linear(hidden_size, patch_size**2 * in_channels)
        self.gradient_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform linear layers, then what differs: small embedders, zero modulations, zero output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        patches = self.patch_embed.proj
        nn.init.xavier_uniform_(patches.weight.view(patches.out_channels, -1))
        nn.init.zeros_(patches.bias)
        for module in self.modules():
            if isinstance(module, ContextEmbedder | Addition | LinearModulation | TableModulation):
                module.reset_parameters()
        nn.init.zeros_(self.proj_out.weight)

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

    def text_context(self, prepared: PreparedText, timestep: Float[Tensor, " _"], cache: bool = False) -> TextContext:
        """What all blocks read of the prompts at `timestep` (one a row, or one for all rows).

        Without time dependence (`text_depends_on_time`) any timestep gives the same, so that a sampler calls this
        once a prompt; with `cache` the result goes down to keys and values and leaves no text work to the step.
        """
        contexts = self.context_embedder(self.router(prepared, timestep))
        per_block: list[Any] = list(contexts.expand(len(self.blocks), -1, -1, -1))
        if cache:
            blocks = cast(list[RoutedBlock], self.blocks)
            per_block = [block.key_value(context) for block, context in zip(blocks, per_block, strict=True)]
        return TextContext(per_block, None if prepared.mask is None else prepared.mask[:, None, None])

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Float[Tensor, "batch channels height width"],
        timestep: Float[Tensor, " batch"],
        encoder_hidden_states: Float[Tensor, "batch layers text_tokens text_channels"] | None = None,
        encoder_attention_mask: Bool[Tensor, "batch text_tokens"] | None = None,
        text_context: TextContext | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Float[Tensor, "batch channels height width"]]:
        """Predicts the velocity, or the sample, of noisy latents.

        Args:
            hidden_states: noisy latents; height and width are multiples of the patch size.
            timestep: in [0, 1000], where 1000 is noise.
            encoder_hidden_states: features of all language-model layers.
            encoder_attention_mask: true for real text tokens; None where all are.
            text_context: from `text_context()`, in place of the two above.
            attention_kwargs: `{"scale": s}` sets the strength of LoRA adapters.
            return_dict: return a `Transformer2DModelOutput`, else a tuple.
        """
        height, width = (self._in_patches(size) for size in hidden_states.shape[-2:])
        if text_context is None:
            if encoder_hidden_states is None:
                raise ValueError("Pass either encoder_hidden_states or text_context; both are None.")
            prepared = self.prepare_text(encoder_hidden_states, encoder_attention_mask)
            text_context = self.text_context(prepared, timestep)

        x = self.patch_embed(hidden_states)
        signal = self.time_embedder(timestep, x.dtype)
        if signal.tokens is not None:
            x = x + signal.tokens
        rotary = None
        if self.config.position_embedding == "rope":
            rotary = rotary_2d(height, width, self.config.attention_head_dim, self.config.rope_base, x.device)

        for block, text in zip(self.blocks, text_context.blocks, strict=True):
            inputs = (x, text, text_context.mask, rotary, signal.blocks)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *inputs)
            else:
                x = block(*inputs)

        x = self.proj_out(self.modulation_out(signal.output)[0].modulate(self.norm_out(x)))
        sample = rearrange(
            x,
            "b (h w) (p q c) -> b c (h p) (w q)",
            h=height,
            w=width,
            p=self.config.patch_size,
            q=self.config.patch_size,
        )
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _in_patches(self, size: int) -> int:
        patches, rest = divmod(size, self.config.patch_size)
        if rest or not patches:
            raise ValueError(f"A latent side of {size} is not a multiple of the patch size {self.config.patch_size}.")
        return patches


def check_sizes(config: Any) -> None:
    """Refuses a configuration whose numbers do not go together, with a sentence that says which."""
    if config.timestep_conditioning not in TIMESTEP_CONDITIONINGS:
        known = ", ".join(TIMESTEP_CONDITIONINGS)
        raise ValueError(f"Unknown timestep conditioning {config.timestep_conditioning!r}: expected one of {known}.")
    if config.prediction not in ("velocity", "sample"):
        raise ValueError(f"Unknown prediction {config.prediction!r}: expected 'velocity' or 'sample'.")
    if config.position_embedding not in ("rope", "sincos"):
        raise ValueError(f"Unknown position embedding {config.position_embedding!r}: expected 'rope' or 'sincos'.")
    if config.attention_head_dim % 4:
        raise ValueError(f"2D rotary embedding needs a head width divisible by 4, not {config.attention_head_dim}.")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            f"{config.num_attention_heads} query heads cannot share {config.num_key_value_heads} key/value heads."
        )
    if config.sample_size % config.patch_size:
        raise ValueError(f"Sample size {config.sample_size} is not a multiple of the patch size {config.patch_size}.")
