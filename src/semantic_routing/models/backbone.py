"""What the diffusion transformers have in common: everything but where text enters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypedDict, runtime_checkable

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PatchEmbed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..text import TextEncoder
from .attention import KeyValue, RMSNorm
from .rotary import rotary_2d
from .single_file import Weights, check_weights, folder_of, read_weights
from .step_caches import fitted
from .timestep import OUTPUT_PARTS, TIMESTEP_CONDITIONINGS, Addition, LinearModulation, TableModulation, TimeSignal
from .tokens import TextTokens

POSITION_TABLE_SIZE = 64
POSITION_EMBEDDINGS = ("rope", "sincos", "rope+sincos")


class TextContext(NamedTuple):
    """What each block reads of the text: `roles heads real_tokens channels`, or the keys and values made from it."""

    blocks: list[Tensor] | list[KeyValue]
    tokens: TextTokens

    def of_block(self, number: int, state: Tensor | None) -> Tensor | KeyValue:
        """What block `number` reads."""
        return self.blocks[number]

    def rows(self, index: Int[Tensor, " rows"]) -> "TextContext":
        """Of the prompts at `index`, from keys and values: so that images with the same text share its making."""
        mask = self.tokens.mask
        blocks = [KeyValue(key.index_select(0, index), value.index_select(0, index)) for key, value in self.blocks]
        tokens = TextTokens.of(None if mask is None else mask[index, 0, 0], len(index), self.tokens.length)
        return TextContext(blocks, tokens)

    def chunk(self, count: int, dim: int = 0) -> "list[TextContext]":
        """Equal parts of the rows, as of a tensor: FasterCache leaves out those without a prompt."""
        key, _ = self.blocks[0]
        return [self.rows(part) for part in torch.arange(len(key), device=key.device).chunk(count, dim)]


class BlockOptions(TypedDict):
    """What blocks of all kinds are made with."""

    channels: int
    num_heads: int
    num_key_value_heads: int
    head_channels: int
    mlp_ratio: float
    modulation: type[nn.Module]
    sandwich_norm: bool
    norm_eps: float


@runtime_checkable
class ContextOfState(Protocol):
    """Text whose context depends on the image: each block's is made when the block is reached."""

    tokens: TextTokens

    def of_block(self, number: int, state: Tensor | None) -> Tensor | KeyValue:
        """What block `number` reads, its image tokens having the mean `state`."""

    def rows(self, index: Int[Tensor, " rows"]) -> "ContextOfState":
        """Of the prompts at `index`, which may repeat."""


class DiffusionTransformer2DModel(
    ModelMixin,
    AttentionMixin,
    ConfigMixin,
    PeftAdapterMixin,
    CacheMixin,
):
    """Patches in, blocks that read text, patches out.

    A subclass registers its configuration, calls the three `_add_` methods around making its blocks, and says how
    blocks get their text by `varies_with`, `prepare_text` and `text_context`.
    """

    _supports_gradient_checkpointing = True
    _keep_in_fp32_modules: ClassVar[list[str]] = []
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["patch_embed", "norm", "fusion"]

    # Makes of prompts what `prepare_text` takes.
    prompt_encoder_class: ClassVar[type[TextEncoder]] = TextEncoder

    @classmethod
    def layers_read(
        cls, layers: list[int], num_blocks: int, strategy: str | None, fusion_options: Mapping[str, object]
    ) -> list[int]:
        """Which of the language model's chosen layers can reach a block: the others need not be delivered."""
        return layers

    def enable_cache(self, config: Any) -> None:
        """Lets a step cache of `diffusers` leave out work; see `step_caches.fitted`."""
        super().enable_cache(fitted(config))

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path_or_dict: Weights,
        config: str | Path | None = None,
        subfolder: str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> "DiffusionTransformer2DModel":
        """A model from one file of its weights, as peers in `diffusers` have it.

        Args:
            pretrained_model_link_or_path_or_dict: a file, the link of one on the hub, or tensors by name.
            config: folder or hub name with the model's `config.json`; None is the file's own folder.
            subfolder: of `config`.
            dtype: of the weights; None is the file's.
            kwargs: of the download, such as `token` or `local_files_only`.

        Raises:
            ValueError: there is no such file, it is no safetensors file, or its weights are not this model's.
        """
        given = pretrained_model_link_or_path_or_dict
        config = folder_of(given) if config is None else config
        tensors = read_weights(given, **kwargs)
        with init_empty_weights(include_buffers=False):
            model: DiffusionTransformer2DModel = cls.from_config(cls.load_config(str(config), subfolder=subfolder))
        model._fix_state_dict_keys_on_load(tensors)
        check_weights(tensors, model, given)
        if dtype is not None:
            kept = tuple(f"{module}." for module in cls._keep_in_fp32_modules)
            tensors = {n: t if n.startswith(kept) else t.to(dtype) for n, t in tensors.items()}
        model.load_state_dict(tensors, assign=True)
        return model.eval()

    def _add_input(self) -> None:
        """What turns latents and timesteps into image tokens and a time signal."""
        config = self.config
        self.patch_embed = PatchEmbed(
            height=config.sample_size,
            width=config.sample_size,
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            embed_dim=config.hidden_size,
            pos_embed_type="sincos" if "sincos" in config.position_embedding else None,
            # The reference's table is cropped, so that places of a few patches all but coincide; ours is not.
            pos_embed_max_size=POSITION_TABLE_SIZE if config.position_embedding == "sincos" else None,
        )
        self.time_embedder = TIMESTEP_CONDITIONINGS.find(config.timestep_conditioning)(config.hidden_size)

    def _block_options(self) -> BlockOptions:
        """Of this configuration."""
        config = self.config
        return {
            "channels": config.hidden_size,
            "num_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_channels": config.attention_head_dim,
            "mlp_ratio": config.mlp_ratio,
            "modulation": self.time_embedder.modulation,
            "sandwich_norm": config.sandwich_norm,
            "norm_eps": config.norm_eps,
        }

    def _add_output(self) -> None:
        """What turns image tokens into a prediction."""
        config = self.config
        self.norm_out = RMSNorm(config.hidden_size, config.norm_eps)
        self.modulation_out = self.time_embedder.modulation(config.hidden_size, OUTPUT_PARTS)
        self.proj_out = nn.Linear(config.hidden_size, config.patch_size**2 * config.in_channels)
        self.gradient_checkpointing = False
        self._reset_backbone()

    def _reset_backbone(self) -> None:
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
            if isinstance(module, Addition | LinearModulation | TableModulation):
                module.reset_parameters()
        nn.init.zeros_(self.proj_out.weight)

    @property
    def varies_with(self) -> frozenset[str]:
        """What blocks' text varies with: some of "block", "token", "timestep" and "state".

        With neither timestep nor state, `text_context` is made once a prompt.
        """
        raise NotImplementedError

    def prepare_text(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
        mask: Tensor | None = None,
        reused: bool = False,
    ) -> Any:
        """What depends on the prompts alone; `reused` says that it serves many steps."""
        raise NotImplementedError

    def text_context(
        self, prepared: Any, timestep: Float[Tensor, " #batch"], cache: bool = False
    ) -> TextContext | ContextOfState:
        """What all blocks read of the prompts; see the subclass."""
        raise NotImplementedError

    def auxiliary_loss(self) -> Float[Tensor, " batch"] | None:
        """What the last forward pass adds to each example's loss in training; None for nothing."""
        return None

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Float[Tensor, "batch channels height width"],
        timestep: Float[Tensor, " batch"],
        encoder_hidden_states: Float[Tensor, "batch layers text_tokens text_channels"] | None = None,
        encoder_attention_mask: Tensor | None = None,
        text_context: TextContext | ContextOfState | None = None,
        attention_kwargs: dict[str, float] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Float[Tensor, "batch channels height width"]]:
        """Predicts the velocity, or the sample, of noisy latents.

        Args:
            hidden_states: noisy latents; height and width are multiples of the patch size.
            timestep: in [0, 1000], where 1000 is noise.
            encoder_hidden_states: features of all language-model layers.
            encoder_attention_mask: `batch text_tokens` of any type, 1 or true for real tokens; None where all are.
            text_context: from `text_context()`, in place of the two above.
            attention_kwargs: `{"scale": s}` sets the strength of LoRA adapters.
            return_dict: return a `Transformer2DModelOutput`, else a tuple.
        """
        if text_context is None:
            if encoder_hidden_states is None:
                raise ValueError("Pass either encoder_hidden_states or text_context; both are None.")
            prepared = self.prepare_text(encoder_hidden_states, encoder_attention_mask)
            text_context = self.text_context(prepared, timestep)
        rows, columns = (self._in_patches(size) for size in hidden_states.shape[-2:])
        # Patches come channels first in memory. Every layer after would have to read across it, and compiled for a CPU
        # the blocks' gradients were wrong (torch 2.13).
        x = self.patch_embed(hidden_states).contiguous()
        signal = self.time_embedder(timestep, x.dtype)
        x = self._run_blocks(x, text_context, signal, (rows, columns))
        x = self.proj_out(self.modulation_out(signal.output)[0].modulate(self.norm_out(x)))
        patch = self.config.patch_size
        sample = rearrange(x, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, w=columns, p=patch, q=patch)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _run_blocks(
        self,
        x: Float[Tensor, "batch tokens channels"],
        text_context: TextContext | ContextOfState,
        signal: TimeSignal,
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch tokens channels"]:
        """Image tokens, in raster order of `grid`, through all blocks."""
        if signal.tokens is not None:
            x = x + signal.tokens
        rotary = None
        if "rope" in self.config.position_embedding:
            rotary = rotary_2d(*grid, self.config.attention_head_dim, self.config.rope_base, x.device)
        for number, block in enumerate(self.blocks):
            state = block.state(x, signal.blocks) if "state" in self.varies_with else None
            text = text_context.of_block(number, state)
            inputs = (x, text, text_context.tokens, rotary, signal.blocks)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *inputs)
            else:
                x = block(*inputs)
        return x

    def _in_patches(self, size: int) -> int:
        patches, rest = divmod(size, self.config.patch_size)
        if rest or not patches:
            raise ValueError(f"A latent side of {size} is not a multiple of the patch size {self.config.patch_size}.")
        return patches


def check_sizes(config: FrozenDict) -> None:
    """Refuses a configuration whose numbers do not go together, with a sentence that says which."""
    if config.timestep_conditioning not in TIMESTEP_CONDITIONINGS:
        known = ", ".join(TIMESTEP_CONDITIONINGS)
        raise ValueError(f"Unknown timestep conditioning {config.timestep_conditioning!r}: expected one of {known}.")
    if config.prediction not in ("velocity", "sample"):
        raise ValueError(f"Unknown prediction {config.prediction!r}: expected 'velocity' or 'sample'.")
    if config.position_embedding not in POSITION_EMBEDDINGS:
        known = ", ".join(POSITION_EMBEDDINGS)
        raise ValueError(f"Unknown position embedding {config.position_embedding!r}: expected one of {known}.")
    if config.attention_head_dim % 4:
        raise ValueError(f"2D rotary embedding needs a head width divisible by 4, not {config.attention_head_dim}.")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            f"{config.num_attention_heads} query heads cannot share {config.num_key_value_heads} key/value heads."
        )
    if config.sample_size % config.patch_size:
        raise ValueError(f"Sample size {config.sample_size} is not a multiple of the patch size {config.patch_size}.")
