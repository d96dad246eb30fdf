"""The reference's configuration and the constants that are not in it, in our words, and back."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from diffusers.configuration_utils import FrozenDict

from ..fusion.gate import TIME_CHANNELS
from ..io.files import JsonObject
from ..models import MODELS, DiffusionTransformer2DModel, FuseDiTTransformer2DModel

# The reference's code sets the base of the image's rotary frequencies by class, whatever its configuration says; only
# FuseDiT takes the language model's.
ROPE_BASES = {"DiT": 10_000.0, "AdaFuseDiT": 100_000.0}
FUSED_CLASS = "FuseDiT"

# What every preset of the reference trains with, and its configuration does not hold.
INSTRUCTION = "Describe this image."
MAX_LENGTH = 512
SCHEDULER_SHIFT = 3.0  # of Stable Diffusion 3, whose scheduler the reference's export tool takes unless told otherwise

POSITION_TABLE = "ape"
ROTARY = "2d-rope"


def _flags(mean: bool = False, by_time: bool = False, by_depth: bool = False) -> dict[str, bool]:
    return {
        "use_norm_avg_fusion": mean,
        "use_timestep_adaptive_fusion": by_time,
        "use_layer_wise_fusion": by_depth,
    }


# How the reference spells a strategy: a class, and flags.
_CLASSES_AND_FLAGS = {
    "penultimate": ("DiT", _flags()),
    "uniform": ("DiT", _flags(mean=True)),
    "static": ("AdaFuseDiT", _flags()),
    "time-wise": ("AdaFuseDiT", _flags(by_time=True)),
    "depth-wise": ("AdaFuseDiT", _flags(by_depth=True)),
    "joint": ("AdaFuseDiT", _flags(by_time=True, by_depth=True)),
}


class Description(NamedTuple):
    """What a reference configuration means for us.

    `text_layers` is the choice of layers for the pipeline's prompt encoder, `options` are those of the model `kind`.
    """

    kind: str
    options: JsonObject
    text_layers: str | list[int]

    @property
    def transformer_class(self) -> type[DiffusionTransformer2DModel]:
        """The model to build."""
        return MODELS.find(self.kind)


def class_of(config: JsonObject, names: Iterable[str]) -> str:
    """The reference's class: as the configuration says, else by what only that class's checkpoints have.

    Raises:
        ValueError: the configuration names a class that is none of the reference's.
    """
    known = (*ROPE_BASES, FUSED_CLASS)
    for name in config.get("architectures") or []:
        if name not in known:
            raise ValueError(f"The configuration's architecture is {name!r}: expected one of {', '.join(known)}.")
        return str(name)
    names = list(names)
    if any(name.startswith("dit.") for name in names):
        return FUSED_CLASS
    return "AdaFuseDiT" if any(name.startswith("text_fusion") for name in names) else "DiT"


def describe(config: JsonObject, names: Iterable[str]) -> Description:
    """Turns a reference configuration into ours.

    Args:
        config: the contents of its `config.json`.
        names: of the checkpoint's tensors, which tell the class where the configuration does not.

    Raises:
        ValueError: an entry is missing, or asks for what our models do not do.
    """
    kind = class_of(config, names)
    text = _text_config(config)
    blocks = int(_entry(config, "dit_num_hidden_layers"))
    _refuse_unsupported(kind, config, text)
    heads, key_value_heads, head_width = _heads(text)
    text_layers: str | list[int]
    fusion: JsonObject = {}
    if kind == FUSED_CLASS:
        layers = _paired_layers(config, blocks, int(_entry(text, "num_hidden_layers")))
        text_layers, num_layers, channels = layers, len(layers), 2 * key_value_heads * head_width
    else:
        fusion["strategy"] = _strategy(kind, config)
        text_layers, num_layers = _layers_read(fusion["strategy"], config, text)
        if config.get("use_timestep_adaptive_fusion"):
            time_channels = int(config.get("adaptive_fusion_time_embed_dim") or TIME_CHANNELS)
            fusion["fusion_options"] = {} if time_channels == TIME_CHANNELS else {"time_channels": time_channels}
        channels = int(_entry(text, "hidden_size"))
    patch_size = int(config.get("patch_size") or 2)
    options = {
        **fusion,
        "num_text_layers": num_layers,
        "text_channels": channels,
        "num_blocks": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "attention_head_dim": head_width,
        "hidden_size": int(_entry(config, "dit_hidden_size")),
        "in_channels": int(config.get("in_channels") or 16),
        "patch_size": patch_size,
        "sample_size": int(config.get("sample_size") or 16 * patch_size),
        "timestep_conditioning": config.get("timestep_conditioning") or "none",
        "position_embedding": "sincos" if _positions(config) == POSITION_TABLE else "rope",
        "rope_base": ROPE_BASES.get(kind) or _rope_base(text),
        "sandwich_norm": bool(config.get("sandwich_norm")),
        "norm_eps": float(text.get("rms_norm_eps") or 1e-6),
    }
    return Description("fusedit" if kind == FUSED_CLASS else "routed", options, text_layers)


def reference_config(
    transformer: DiffusionTransformer2DModel, text_config: JsonObject | None, layers: list[int] | None
) -> JsonObject:
    """The configuration under which the reference opens a transformer's weights.

    Args:
        transformer: ours, on any device.
        text_config: the language model's `transformers` configuration; None leaves what the transformer knows of it.
        layers: the language model's layers that are read, as the prompt encoder counts them; None where unknown.

    Raises:
        ValueError: the reference's code cannot compute what the transformer does.
    """
    ours = transformer.config
    fused = isinstance(transformer, FuseDiTTransformer2DModel)
    if not fused and ours.strategy not in _CLASSES_AND_FLAGS:
        raise ValueError(f"The reference has no fusion strategy {ours.strategy!r}.")
    kind, flags = (FUSED_CLASS, {}) if fused else _CLASSES_AND_FLAGS[ours.strategy]
    base = text_config or _what_is_known(ours, fused)
    _refuse_foreign(ours, kind, base)
    config = {
        "architectures": [kind],
        "base_config": base,
        "dit_hidden_size": ours.hidden_size,
        "dit_num_hidden_layers": ours.num_blocks,
        "in_channels": ours.in_channels,
        "out_channels": ours.in_channels,
        "patch_size": ours.patch_size,
        "sample_size": ours.sample_size,
        "pos_embed": POSITION_TABLE if ours.position_embedding == "sincos" else ROTARY,
        "attention": "self" if fused else "cross",
        "qk_norm": True,
        "sandwich_norm": ours.sandwich_norm,
        "timestep_conditioning": None if ours.timestep_conditioning == "none" else ours.timestep_conditioning,
    }
    if fused:
        first = 0 if layers is None else layers[0]
        return config | {"initial_layers": first, "shared_attention_layers": "all"}
    return (
        config
        | flags
        | {
            "text_hidden_size": ours.text_channels,
            "text_hidden_states_num": ours.num_text_layers,
            "text_hidden_states_index": _hidden_state_index(ours, base, layers),
            "adaptive_fusion_time_embed_dim": (ours.fusion_options or {}).get("time_channels", TIME_CHANNELS),
        }
    )


def _entry(config: JsonObject, key: str) -> Any:
    if config.get(key) is None:
        raise ValueError(f"The reference configuration has no {key!r}.")
    return config[key]


def _text_config(config: JsonObject) -> JsonObject:
    """The language model's text configuration, also where it lies within a vision-language model's."""
    base: JsonObject = _entry(config, "base_config")
    return base.get("text_config") or base


def _heads(text: JsonObject) -> tuple[int, int, int]:
    """Query heads, key/value heads and head width, which the reference's blocks share with the language model."""
    heads = int(_entry(text, "num_attention_heads"))
    width = text.get("head_dim") or int(_entry(text, "hidden_size")) // heads
    return heads, int(text.get("num_key_value_heads") or heads), int(width)


def _rope_base(text: JsonObject) -> float:
    """The language model's own, in the places where old and new configurations keep it."""
    for holder in (text, text.get("rope_parameters") or {}, text.get("rope_scaling") or {}):
        if holder.get("rope_theta"):
            return float(holder["rope_theta"])
    raise ValueError("The reference configuration's base_config has no 'rope_theta', which FuseDiT's image side takes.")


def _positions(config: JsonObject) -> str:
    return str(config.get("pos_embed") or ROTARY)


def _strategy(kind: str, config: JsonObject) -> str:
    if kind == "AdaFuseDiT":
        flags = ("use_timestep_adaptive_fusion", "use_layer_wise_fusion")
        by_time, by_depth = (bool(config.get(flag)) for flag in flags)
        return next(
            name
            for name, (known, values) in _CLASSES_AND_FLAGS.items()
            if known == kind and (values[flags[0]], values[flags[1]]) == (by_time, by_depth)
        )
    return "uniform" if config.get("use_norm_avg_fusion") else "penultimate"


def _layers_read(strategy: str, config: JsonObject, text: JsonObject) -> tuple[str | list[int], int]:
    """The choice of hidden states and their number.

    The reference's builder writes 1 for the uniform mean, although all layers are meant.
    """
    num_layers, number = int(_entry(text, "num_hidden_layers")), int(config.get("text_hidden_states_num") or 1)
    if strategy == "penultimate":
        if number != 1:
            raise ValueError(f"A DiT without fusion reads 1 layer; text_hidden_states_num is {number}.")
        index = config.get("text_hidden_states_index")
        return [(-2 if index is None else int(index)) % (num_layers + 1)], 1
    if strategy == "uniform" and number == 1:
        number = num_layers
    if number == num_layers:
        return "all", number
    if not 1 <= number <= num_layers + 1:
        raise ValueError(f"text_hidden_states_num is {number}; the language model has {num_layers} layers.")
    return list(range(num_layers + 1 - number, num_layers + 1)), number


def _paired_layers(config: JsonObject, blocks: int, num_layers: int) -> list[int]:
    """FuseDiT's block b reads layer `initial_layers` + b."""
    first = int(config.get("initial_layers") or 0)
    layers = list(range(first, first + blocks))
    shared = config.get("shared_attention_layers", "all")
    if layers[-1] >= num_layers:
        raise ValueError(
            f"{blocks} blocks from layer {first} on need more than the language model's {num_layers} layers."
        )
    if shared != "all" and not set(layers) <= set(shared or ()):
        raise ValueError(
            f"shared_attention_layers is {shared!r}: it must hold all paired layers, {first} to {layers[-1]}."
        )
    return layers


def _refuse_unsupported(kind: str, config: JsonObject, text: JsonObject) -> None:
    """What the reference can be configured to do and no preset does, and our models do not."""
    attention = config.get("attention") or "cross"
    channels = config.get("in_channels") or 16
    refused = {
        f"attention {attention!r}": kind != FUSED_CLASS and attention != "cross",
        f"pos_embed {_positions(config)!r}": _positions(config) not in (POSITION_TABLE, ROTARY),
        "qk_norm false": config.get("qk_norm") is False,
        "attention_bias true": bool(text.get("attention_bias")),
        f"hidden_act {text.get('hidden_act')!r}": text.get("hidden_act", "silu") not in ("silu", "swish"),
        f"out_channels {config.get('out_channels')} beside in_channels {channels}": (
            (config.get("out_channels") or channels) != channels
        ),
    }
    for what, is_refused in refused.items():
        if is_refused:
            raise ValueError(f"The reference checkpoint was made with {what}, which our models do not do.")


def _what_is_known(ours: FrozenDict, fused: bool) -> JsonObject:
    """What a transformer alone tells of its language model's configuration."""
    known = {
        "num_attention_heads": ours.num_attention_heads,
        "num_key_value_heads": ours.num_key_value_heads,
        "head_dim": ours.attention_head_dim,
        "rms_norm_eps": ours.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "num_hidden_layers": max(ours.num_text_layers, 2),
    }
    return known | ({"rope_theta": ours.rope_base} if fused else {"hidden_size": ours.text_channels})


def _refuse_foreign(ours: FrozenDict, kind: str, base: JsonObject) -> None:
    """The reference's code takes these from the class or the language model and cannot be told otherwise."""
    heads = (ours.num_attention_heads, ours.num_key_value_heads, ours.attention_head_dim)
    comparisons = {
        "prediction": (ours.prediction, "velocity"),
        "mlp_ratio": (ours.mlp_ratio, 4.0),
        "heads, key/value heads and head width": (heads, _heads(base)),
        "norm_eps": (ours.norm_eps, base.get("rms_norm_eps", 1e-6)),
    }
    if ours.position_embedding == "rope+sincos":
        comparisons["position_embedding"] = (ours.position_embedding, "rope or sincos")
    if ours.position_embedding == "rope":
        comparisons["rope_base"] = (ours.rope_base, ROPE_BASES.get(kind) or _rope_base(base))
    for what, (seen, wanted) in comparisons.items():
        if seen != wanted:
            raise ValueError(f"The reference's {kind} cannot hold this model: {what} is {seen}, there it is {wanted}.")


def _hidden_state_index(ours: FrozenDict, base: JsonObject, layers: list[int] | None) -> int:
    """Where a single layer lies, counted from the end of all hidden states."""
    if ours.num_text_layers > 1:
        return -1
    return -2 if layers is None else layers[0] - int(base["num_hidden_layers"]) - 1
