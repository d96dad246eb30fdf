"""The models of `diffusers` that can take a fusion, a row each, and what a fusion must know of them.

A new host is a new row of `HOSTS`. A model that cannot be one has a row in `REFUSED`, which says why.
"""

import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, nn

Config = Mapping[str, Any]

# The timestep in [0, 1000], where 1000 is noise, from the time that a host is called with.
TIMES: dict[str, Callable[[Tensor, Config], Tensor]] = {
    "timestep": lambda time, config: time,
    "timestep x scale": lambda time, config: time / config["timestep_scale"],
    "sigma": lambda time, config: 1000 * time,
    "flow time": lambda time, config: 1000 * (1 - time),
}


class Host(NamedTuple):
    """How text enters a model.

    Args:
        model: its class in `diffusers`.
        pipelines: the pipelines that it serves.
        encoder: the pipeline's text encoder whose layers are read.
        reads: the hidden state of it that the host was trained with: None is `last_hidden_state`.
        entry: the argument of the model that takes the text.
        width: the key of the model's config that gives the text's channels.
        projection: the modules that text passes before the blocks.
        blocks: a pattern of the names of the modules that read text.
        argument: their argument that holds it.
        text_first: whether text positions are the first of that argument, and not the last.
        mask: the argument of the model with the text's mask, where there is one; image positions may follow in it.
        time: what the model is called with as `timestep`, a name of `TIMES`.
        after_others: whether channels of other encoders come before those of `encoder` in the text.
        when: values of the config that this row is for.
    """

    model: str
    pipelines: tuple[str, ...]
    encoder: str
    reads: int | None
    width: str
    projection: tuple[str, ...]
    blocks: str
    entry: str = "encoder_hidden_states"
    argument: str = "encoder_hidden_states"
    text_first: bool = False
    mask: str | None = None
    time: str = "timestep"
    after_others: bool = False
    when: Config | None = None

    def text_channels(self, config: Config) -> int:
        """Width of the text that the model takes.

        Raises:
            ValueError: it is not one number.
        """
        width = config[self.width]
        if not isinstance(width, int):
            raise ValueError(f"{self.model} takes a fusion where {self.width} is one number, but here it is {width}.")
        return width

    def projections(self, model: nn.Module) -> list[nn.Module]:
        """The modules that text passes before the blocks."""
        return [attrgetter(path)(model) for path in self.projection]

    def text_blocks(self, model: nn.Module) -> list[nn.Module]:
        """The modules that read text, in the order in which they run.

        Raises:
            ValueError: there is none.
        """
        found = [(name, module) for name, module in model.named_modules() if re.fullmatch(self.blocks, name)]
        if not found:
            raise ValueError(f"This {self.model} has no block that reads text: no module is called {self.blocks}.")
        sides = ("down", "mid", "up")  # a U-Net registers them in another order
        found.sort(key=lambda item: next((number for number, side in enumerate(sides) if item[0].startswith(side)), 0))
        return [module for _, module in found]


class Refusal(NamedTuple):
    """A model that cannot be a host, and why; `when` as in `Host`."""

    model: str
    reason: str
    when: Config | None = None


_CROSS = r"transformer_blocks\.\d+\.attn2"
_UNET = r"(down_blocks|mid_block|up_blocks)\..*\.attn2"

HOSTS = (
    Host("PixArtTransformer2DModel", ("PixArtAlphaPipeline", "PixArtSigmaPipeline"), "text_encoder", None,
         "caption_channels", ("caption_projection",), _CROSS, mask="encoder_attention_mask"),
    Host("SanaTransformer2DModel", ("SanaSprintPipeline",), "text_encoder", None,
         "caption_channels", ("caption_projection", "caption_norm"), _CROSS, mask="encoder_attention_mask",
         time="sigma", when={"guidance_embeds": True}),
    Host("SanaTransformer2DModel", ("SanaPipeline",), "text_encoder", None,
         "caption_channels", ("caption_projection", "caption_norm"), _CROSS, mask="encoder_attention_mask",
         time="timestep x scale"),
    Host("HunyuanDiT2DModel", ("HunyuanDiTPipeline",), "text_encoder_2", None,
         "cross_attention_dim_t5", ("text_embedder",), r"blocks\.\d+\.attn2",
         entry="encoder_hidden_states_t5", mask="text_embedding_mask_t5"),
    Host("WanTransformer3DModel", ("WanPipeline", "WanImageToVideoPipeline"), "text_encoder", None,
         "text_dim", ("condition_embedder.text_embedder",), r"blocks\.\d+\.attn2"),
    Host("LTXVideoTransformer3DModel", ("LTXPipeline",), "text_encoder", None,
         "caption_channels", ("caption_projection",), _CROSS, mask="encoder_attention_mask"),
    Host("CosmosTransformer3DModel", ("Cosmos2TextToImagePipeline",), "text_encoder", None,
         "text_embed_dim", (), _CROSS, time="sigma"),
    Host("Kandinsky5Transformer3DModel", ("Kandinsky5T2IPipeline", "Kandinsky5T2VPipeline"), "text_encoder", -1,
         "in_text_dim", ("text_embeddings",), r"visual_transformer_blocks\.\d+\.cross_attention"),
    Host("UNet2DConditionModel", ("StableDiffusionXLPipeline",), "text_encoder_2", -2,
         "cross_attention_dim", (), _UNET, after_others=True, when={"addition_embed_type": "text_time"}),
    Host("UNet2DConditionModel", ("StableDiffusionPipeline",), "text_encoder", None,
         "cross_attention_dim", (), _UNET),
    Host("Lumina2Transformer2DModel", ("Lumina2Pipeline",), "text_encoder", -2,
         "cap_feat_dim", ("time_caption_embed.caption_embedder",), r"layers\.\d+",
         argument="hidden_states", text_first=True, mask="encoder_attention_mask", time="flow time"),
    Host("SD3Transformer2DModel", ("StableDiffusion3Pipeline",), "text_encoder_3", None,
         "joint_attention_dim", ("context_embedder",), r"transformer_blocks\.\d+"),
    Host("FluxTransformer2DModel", ("FluxPipeline",), "text_encoder_2", None,
         "joint_attention_dim", ("context_embedder",), r"(single_)?transformer_blocks\.\d+", time="sigma"),
    Host("ChromaTransformer2DModel", ("ChromaPipeline",), "text_encoder", None,
         "joint_attention_dim", ("context_embedder",), r"transformer_blocks\.\d+", mask="attention_mask", time="sigma"),
    Host("QwenImageTransformer2DModel", ("QwenImagePipeline",), "text_encoder", -1,
         "joint_attention_dim", ("txt_norm", "txt_in"), r"transformer_blocks\.\d+",
         mask="encoder_hidden_states_mask", time="sigma"),
)  # fmt: skip

_PROJECTED = "its text passes a projection together with images"
_ALL_LAYERS = "it reads many layers of its text encoder by itself"
REFUSED = (
    Refusal("CosmosTransformer3DModel", _ALL_LAYERS, {"use_crossattn_projection": True}),
    *(Refusal("UNet2DConditionModel", _PROJECTED, {"encoder_hid_dim_type": kind})
      for kind in ("image_proj", "text_image_proj", "text_proj")),
    Refusal("Flux2Transformer2DModel", _ALL_LAYERS),
    Refusal("LTX2VideoTransformer3DModel", _ALL_LAYERS),
    Refusal("Krea2Transformer2DModel", _ALL_LAYERS),
    Refusal("Ideogram4Transformer2DModel", _ALL_LAYERS),
    Refusal("BriaFiboTransformer2DModel", _ALL_LAYERS),
    Refusal("BriaFibo2Transformer2DModel", _ALL_LAYERS),
    Refusal("HiDreamImageTransformer2DModel", _ALL_LAYERS),
    Refusal("Cosmos3OmniTransformer", "its blocks attend to the language model's own keys and values"),
    Refusal("DiTTransformer2DModel", "it reads class labels and no text"),
    Refusal("ZImageTransformer2DModel", "it takes text as a list of rows of different lengths"),
)  # fmt: skip


def config_of(model: nn.Module) -> Config:
    """The configuration of a `diffusers` model."""
    config: Config = model.config  # type: ignore[assignment]
    return config


def find_host(model: nn.Module) -> Host:
    """The row for a model.

    Raises:
        ValueError: it cannot take a fusion; the message says why.
    """
    name = type(model).__name__

    def fits(row: Host | Refusal) -> bool:
        return row.model == name and all(config_of(model).get(key) == value for key, value in (row.when or {}).items())

    for refusal in filter(fits, REFUSED):
        raise ValueError(f"{name} cannot take a fusion: {refusal.reason}.")
    host = next(filter(fits, HOSTS), None)
    if host is None:
        known = ", ".join(dict.fromkeys(row.model for row in HOSTS))
        raise ValueError(f"{name} is not in the table of hosts: expected one of {known}.")
    return host
