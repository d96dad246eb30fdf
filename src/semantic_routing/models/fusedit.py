"""FuseDiT, the deep-fusion baseline: image tokens attend within the language model's own layers.

Block b is paired with one layer of the language model. Its image tokens attend, under one softmax, to that layer's keys
and values of the text and to their own. Text never attends to image tokens, so the language model runs alone, once a
prompt (`semantic_routing.text.KeyValueEncoder`), and this model holds the image side only.
"""

from typing import ClassVar, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 (`diffusers` looks for it beside the model)
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..fusion.contract import as_bool
from ..text import KeyValueEncoder
from .attention import JointAttention, KeyValue, RMSNorm
from .backbone import DiffusionTransformer2DModel, TextContext, check_sizes
from .block import GatedMLP
from .rotary import Rotary, rotary_shift
from .timestep import BLOCK_PARTS
from .tokens import TextTokens


class PreparedKeyValues(NamedTuple):
    """Keys, turned to the image's origin, and values of all paired layers; and which tokens are real (None: all)."""

    key: Float[Tensor, "layers batch text_tokens heads head_channels"]
    value: Float[Tensor, "layers batch text_tokens heads head_channels"]
    mask: Bool[Tensor, "batch text_tokens"] | None


class FusedBlock(nn.Module):
    """Joint attention to text and image, gated MLP, each added to the residual stream.

    See `RoutedBlock` for the arguments.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        num_key_value_heads: int,
        head_channels: int,
        mlp_ratio: float,
        modulation: type[nn.Module],
        sandwich_norm: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.modulation = modulation(channels, BLOCK_PARTS)
        self.norm_attention = RMSNorm(channels, norm_eps)
        self.joint_attention = JointAttention(
            channels, channels, num_heads, num_key_value_heads, head_channels, norm_eps
        )
        self.norm_mlp = RMSNorm(channels, norm_eps)
        self.mlp = GatedMLP(channels, int(mlp_ratio * channels))
        self.norm_attention_out, self.norm_mlp_out = (
            RMSNorm(channels, norm_eps) if sandwich_norm else nn.Identity() for _ in range(2)
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "batch tokens channels"],
        text: KeyValue,
        tokens: TextTokens,
        rotary: Rotary | None,
        time_signal: Tensor | None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """`text` is what the paired layer keeps of the prompts."""
        x = hidden_states
        attention, mlp = self.modulation(time_signal)
        branch = self.joint_attention(attention.modulate(self.norm_attention(x)), rotary, text, tokens.mask)
        x = x + attention.gated(self.norm_attention_out(branch))
        branch = self.mlp(mlp.modulate(self.norm_mlp(x)))
        return x + mlp.gated(self.norm_mlp_out(branch))


TransformerBlockRegistry.register(FusedBlock, TransformerBlockMetadata(return_hidden_states_index=0))


class FuseDiTTransformer2DModel(DiffusionTransformer2DModel):
    """A DiT whose blocks attend to keys and values of the language model's layers.

    Interface and arguments are those of `SemanticRoutingTransformer2DModel`, except:

    Args:
        num_text_layers: layers whose keys and values are read: one a block.
        text_channels: of keys and values together, 2 x key/value heads x head width.
        rope_base: of the image's rotary frequencies; the reference takes the language model's.

    Raises:
        ValueError: sizes that do not go together, or an unknown name.
    """

    _no_split_modules: ClassVar[list[str]] = ["FusedBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["FusedBlock"]

    prompt_encoder_class = KeyValueEncoder

    @register_to_config
    def __init__(
        self,
        num_text_layers: int = 24,
        text_channels: int = 2048,
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
        rope_base: float = 5e6,
        sandwich_norm: bool = False,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        check_sizes(self.config)
        _check_pairing(num_text_layers, num_blocks, text_channels, 2 * num_key_value_heads * attention_head_dim)
        self._add_input()
        self.blocks = nn.ModuleList(FusedBlock(**self._block_options()) for _ in range(num_blocks))
        self._add_output()

    @property
    def varies_with(self) -> frozenset[str]:
        """Each block reads the layer that it is paired with."""
        return frozenset({"block"})

    def prepare_text(
        self,
        hidden_states: Float[Tensor, "batch layers text_tokens key_value_channels"],
        mask: Tensor | None = None,
        reused: bool = False,
    ) -> PreparedKeyValues:
        """Cuts padding to the longest prompt, splits heads, and turns keys to where the image begins.

        The image's rows and columns count on from the text: both start at the row's number of real tokens. Since scores
        see only differences of position, that number is taken off the keys, once, in place of adding it to the image
        in every block and step.

        Args:
            hidden_states: keys, then values, of the paired layers, from `KeyValueEncoder`.
            mask: 1 or true for real tokens, which come first. Without a mask all tokens are real.
            reused: nothing changes with it.
        """
        if hidden_states.shape[1] != len(self.blocks):
            raise ValueError(f"The model has {len(self.blocks)} blocks and got {hidden_states.shape[1]} layers.")
        batch, tokens = hidden_states.shape[0], hidden_states.shape[2]
        lengths = torch.full((batch,), tokens, device=hidden_states.device)
        if mask is not None:
            mask = as_bool(mask)
            lengths = mask.sum(dim=1)
            tokens = int(lengths.max())
            hidden_states, mask = hidden_states[:, :, :tokens], mask[:, :tokens]
        key, value = rearrange(
            hidden_states, "b l n (two g c) -> two l b n g c", two=2, c=self.config.attention_head_dim
        ).unbind(0)
        if "rope" in self.config.position_embedding:
            key = self._turn_back(key, lengths)
        return PreparedKeyValues(key, value, mask)

    def _turn_back(
        self, key: Float[Tensor, "layers batch text_tokens heads head_channels"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "layers batch text_tokens heads head_channels"]:
        """Rotates keys by minus each row's length."""
        layers, _, tokens, heads, channels = key.shape
        rotary = rotary_shift(-lengths, channels, self.config.rope_base)
        # The rotation's own sequence axis is the batch here: all tokens of a row turn alike.
        key = rearrange(key, "l b n g c -> 1 b (l n g) c")
        key = apply_rotary_emb(key, rotary, use_real_unbind_dim=-2, sequence_dim=1)
        return rearrange(key, "1 b (l n g) c -> l b n g c", l=layers, n=tokens, g=heads)

    def text_context(
        self, prepared: PreparedKeyValues, timestep: Float[Tensor, " #batch"], cache: bool = False
    ) -> TextContext:
        """Each block's keys and values, the same at all timesteps, with `cache` or without."""
        per_block = [KeyValue(*pair) for pair in zip(prepared.key, prepared.value, strict=True)]
        return TextContext(per_block, TextTokens.of(prepared.mask, *prepared.key.shape[1:3]))


def _check_pairing(layers: int, blocks: int, channels: int, wanted_channels: int) -> None:
    if layers != blocks:
        raise ValueError(
            f"Deep fusion pairs each block with a language-model layer: {blocks} blocks need as many, not {layers}."
        )
    if channels != wanted_channels:
        raise ValueError(
            f"Deep fusion shares heads with the language model, whose keys and values have {channels} channels "
            f"together; these blocks' have {wanted_channels}."
        )
