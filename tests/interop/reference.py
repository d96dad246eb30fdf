"""The reference's forward pass in plain functions of tensors, written from its documented conventions and not from
ours, and a maker of random checkpoints in its format."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor

from semantic_routing.models import FuseDiTTransformer2DModel, SemanticRoutingTransformer2DModel

FLAGS = {
    "penultimate": ("DiT", (False, False, False)),
    "uniform": ("DiT", (True, False, False)),
    "static": ("AdaFuseDiT", (False, False, False)),
    "time-wise": ("AdaFuseDiT", (False, True, False)),
    "depth-wise": ("AdaFuseDiT", (False, False, True)),
    "joint": ("AdaFuseDiT", (False, True, True)),
    "fusedit": ("FuseDiT", (False, False, False)),
}
CONDITIONINGS = (None, "addition", "adaln-zero", "adaln-single")
BASES = {"DiT": 1e4, "AdaFuseDiT": 1e5}


def model_class(variant: str) -> type[ModelMixin]:
    """Our class for one of `FLAGS`."""
    return FuseDiTTransformer2DModel if variant == "fusedit" else SemanticRoutingTransformer2DModel


def make_config(variant: str, conditioning: str | None = None, **changes: Any) -> dict[str, Any]:
    """A reference `config.json` of a tiny model."""
    kind, (mean, by_time, by_depth) = FLAGS[variant]
    config = {
        "architectures": [kind],
        "attention": "self" if variant == "fusedit" else "cross",
        "dit_hidden_size": 36,
        "dit_num_hidden_layers": 3,
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": 2,
        "pos_embed": "2d-rope",
        "qk_norm": True,
        "sandwich_norm": False,
        "text_hidden_size": 40,
        "timestep_conditioning": conditioning,
        "text_hidden_states_num": 1 if kind == "DiT" else 5,
        "text_hidden_states_index": -2 if variant == "penultimate" else -1,
        "use_norm_avg_fusion": mean,
        "use_timestep_adaptive_fusion": by_time,
        "use_layer_wise_fusion": by_depth,
        "adaptive_fusion_time_embed_dim": 128,
        "initial_layers": 1,
        "shared_attention_layers": "all",
        "base_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": 40,
            "intermediate_size": 64,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
            "vocab_size": 64,
        },
    }
    return config | changes


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every key of a checkpoint and its shape."""
    base, kind = config["base_config"], config["architectures"][0]
    width, blocks, patch = config["dit_hidden_size"], config["dit_num_hidden_layers"], config["patch_size"]
    channels, text, layers = config["in_channels"], base["hidden_size"], base["num_hidden_layers"]
    heads, groups, head = base["num_attention_heads"], base["num_key_value_heads"], base["head_dim"]
    conditioning, fused = config["timestep_conditioning"], kind == "FuseDiT"
    found: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, channels, patch, patch),
        "patch_embed.proj.bias": (width,),
        "proj_out.weight": (patch * patch * channels, width),
        "proj_out.bias": (patch * patch * channels,),
        **({"norm_out.weight": (width,)} if conditioning != "adaln-zero" else {"norm_out.norm.weight": (width,)}),
    }
    if not fused:
        found |= {"context_embedder.0.weight": (text,), "context_embedder.1.weight": (text, text)}
        found |= {"context_embedder.1.bias": (text,)}
    if config["pos_embed"] == "ape":
        found["patch_embed.pos_embed"] = (1, 64 * 64, width)
    if conditioning is not None:
        found |= {"timestep_embedder.0.weight": (width, 256), "timestep_embedder.0.bias": (width,)}
        found |= {"timestep_embedder.2.weight": (width, width), "timestep_embedder.2.bias": (width,)}
    if conditioning == "adaln-zero":
        found |= {"norm_out.linear.weight": (2 * width, width), "norm_out.linear.bias": (2 * width,)}
    if conditioning == "adaln-single":
        found |= {"scale_shift_table": (2 * width,)}
        found |= {"t_block.1.weight": (6 * width, width), "t_block.1.bias": (6 * width,)}
    for block in range(blocks):
        layer = f"layers.{block}."
        attention = {"q_norm": (head,), "k_norm": (head,), "q_proj": (heads * head, width)}
        attention |= {"k_proj": (groups * head, width), "v_proj": (groups * head, width)}
        attention |= {"o_proj": (width, heads * head)}
        found |= {f"{layer}self_attn.{name}.weight": shape for name, shape in attention.items()}
        if not fused:
            attention |= {"text_k_proj": (groups * head, text), "text_v_proj": (groups * head, text)}
            del attention["k_proj"], attention["v_proj"]
            found |= {f"{layer}cross_attn.{name}.weight": shape for name, shape in attention.items()}
        found |= {f"{layer}mlp.{name}.weight": (4 * width, width) for name in ("gate_proj", "up_proj")}
        found |= {f"{layer}mlp.down_proj.weight": (width, 4 * width)}
        norms = ["post_attention_layernorm"]
        if conditioning == "adaln-zero":
            norms.append("input_layernorm.norm")
            found |= {f"{layer}input_layernorm.linear.weight": (6 * width, width)}
            found |= {f"{layer}input_layernorm.linear.bias": (6 * width,)}
        else:
            norms.append("input_layernorm")
        if conditioning == "adaln-single":
            found |= {f"{layer}scale_shift_table": (6 * width,)}
        if config["sandwich_norm"]:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
            norms += [] if fused else ["post_cross_attention_layernorm"]
        found |= {f"{layer}{norm}.weight": (width,) for norm in norms}
    if kind == "AdaFuseDiT":
        count = config["text_hidden_states_num"]
        time = config["adaptive_fusion_time_embed_dim"]
        hidden = 4 * time
        gate = {"0.weight": (hidden, time), "0.bias": (hidden,), "2.weight": (count, hidden), "2.bias": (count,)}
        owners = [f"s.{block}" for block in range(blocks)] if config["use_layer_wise_fusion"] else [""]
        for owner in owners:
            if config["use_timestep_adaptive_fusion"]:
                stem = f"text_fusion_module{owner}.weight_generator."
                found |= {stem + name: shape for name, shape in gate.items()}
            else:
                found[f"text_fusion_weight{owner}"] = (count,)
    if fused:
        found = {f"dit.{name}": shape for name, shape in found.items()}
        found |= {"llm.embed_tokens.weight": (base["vocab_size"], text), "llm.norm.weight": (text,)}
        for layer in range(layers):
            stem, inner = f"llm.layers.{layer}.", base["intermediate_size"]
            parts = {"self_attn.q_proj": (heads * head, text), "self_attn.k_proj": (groups * head, text)}
            parts |= {"self_attn.v_proj": (groups * head, text), "self_attn.o_proj": (text, heads * head)}
            parts |= {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)}
            parts |= {"mlp.gate_proj": (inner, text), "mlp.up_proj": (inner, text), "mlp.down_proj": (text, inner)}
            parts |= {"input_layernorm": (text,), "post_attention_layernorm": (text,)}
            found |= {f"{stem}{name}.weight": shape for name, shape in parts.items()}
    return found


def make_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights: norms around one, everything else around zero, large enough that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(config).items():
        values = torch.randn(shape, generator=generator)
        is_norm = len(shape) == 1 and ("norm" in name or name.endswith("context_embedder.0.weight"))
        if is_norm and not name.endswith("bias"):
            values = 1 + 0.2 * values
        elif "text_fusion_weight" in name:
            values = 0.7 * values
        elif len(shape) == 1:
            values = 0.1 * values
        else:
            values = values * (0.3 if name.endswith("pos_embed") else shape[1] ** -0.5)
        weights[name] = values
    return weights


def make_inputs(config: dict[str, Any], seed: int = 1) -> dict[str, Tensor]:
    """Latents (not square), timesteps, features layer by layer, token numbers, and a mask padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    base = config["base_config"]
    layers = base["num_hidden_layers"] if config["use_norm_avg_fusion"] else config["text_hidden_states_num"]
    scales = torch.logspace(-1, 2, layers)[:, None, None, None]  # layers differ in scale by orders of magnitude
    return {
        "latents": torch.randn(2, config["in_channels"], 6, 10, generator=generator),
        "timesteps": torch.tensor([912.0, 250.5]),
        "text": scales * torch.randn(layers, 2, 9, base["hidden_size"], generator=generator),
        "input_ids": torch.randint(0, base["vocab_size"], (2, 9), generator=generator),
        "mask": torch.arange(9) < torch.tensor([[4], [9]]),
    }


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates channel j with channel j + half; `angles` is (..., tokens, half), heads come before tokens in `x`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def image_angles(rows: int, columns: int, head: int, base: float, offset: Tensor) -> Tensor:
    """(batch, 1, tokens, half): row pairs first, then column pairs, both shifted by `offset`."""
    frequencies = base ** (-2 * torch.arange(head // 4, dtype=torch.float64) / (head // 2))
    row = torch.arange(rows).repeat_interleave(columns)[None] + offset[:, None]
    column = torch.arange(columns).repeat(rows)[None] + offset[:, None]
    return torch.cat([row[..., None] * frequencies, column[..., None] * frequencies], dim=-1)[:, None]


def sinusoids(position: Tensor, size: int) -> Tensor:
    frequencies = 1e4 ** (-torch.arange(size // 2, dtype=torch.float64) / (size // 2))
    angles = position.double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, heads, tokens, width) each; every key/value head serves consecutive query heads; `mask` is additive."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return ((scores if mask is None else scores + mask).softmax(-1) @ value).transpose(1, 2).flatten(2)


def additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min)


class Reference:
    """One checkpoint's forward pass, in float64."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.config, self.base = config, config["base_config"]
        self.kind = config["architectures"][0]
        self.w = {name.removeprefix("dit."): tensor.double() for name, tensor in weights.items()}
        self.eps, self.head = self.base["rms_norm_eps"], self.base["head_dim"]
        self.width, self.blocks = config["dit_hidden_size"], config["dit_num_hidden_layers"]
        self.conditioning = config["timestep_conditioning"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return rms(x, self.w[f"{name}.weight"], self.eps)

    def heads(self, x: Tensor, name: str) -> Tensor:
        return self.linear(x, name).unflatten(-1, (-1, self.head)).transpose(1, 2)

    def mlp(self, x: Tensor, name: str) -> Tensor:
        return self.linear(
            F.silu(self.linear(x, f"{name}.gate_proj")) * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj"
        )

    def fusion_weights(self, timesteps: Tensor) -> Tensor:
        """(blocks or 1, batch, layers)."""
        count = self.config["text_hidden_states_num"]
        if self.kind == "DiT":
            count = self.base["num_hidden_layers"] if self.config["use_norm_avg_fusion"] else 1
            return torch.full((1, len(timesteps), count), 1 / count, dtype=torch.float64)
        owners = [f"s.{block}" for block in range(self.blocks)] if self.config["use_layer_wise_fusion"] else [""]
        logits = []
        for owner in owners:
            if self.config["use_timestep_adaptive_fusion"]:
                stem = f"text_fusion_module{owner}.weight_generator."
                hidden = F.silu(
                    self.linear(sinusoids(timesteps / 1000, self.config["adaptive_fusion_time_embed_dim"]), f"{stem}0")
                )
                logits.append(self.linear(hidden, f"{stem}2"))
            else:
                logits.append(self.w[f"text_fusion_weight{owner}"].expand(len(timesteps), -1))
        return torch.stack(logits).softmax(-1)

    def fused_text(self, text: Tensor, timesteps: Tensor) -> Tensor:
        normalized = F.layer_norm(text.double(), text.shape[-1:], eps=1e-5)
        return torch.einsum("dbl,lbsc->dbsc", self.fusion_weights(timesteps), normalized)

    def contexts(self, text: Tensor, timesteps: Tensor) -> Tensor:
        fused = self.fused_text(text, timesteps)
        return self.linear(self.norm(fused, "context_embedder.0"), "context_embedder.1").expand(self.blocks, -1, -1, -1)

    def time(self, timesteps: Tensor) -> Tensor | None:
        if self.conditioning is None:
            return None
        return self.linear(F.silu(self.linear(sinusoids(timesteps, 256), "timestep_embedder.0")), "timestep_embedder.2")

    def six(self, e: Tensor | None, block: int) -> list[Any]:
        """Shift, scale and gate of attention, then of the MLP."""
        if self.conditioning == "adaln-zero":
            parts = self.linear(F.silu(e), f"layers.{block}.input_layernorm.linear")
        elif self.conditioning == "adaln-single":
            parts = self.linear(F.silu(e), "t_block.1") + self.w[f"layers.{block}.scale_shift_table"]
        else:
            return [0, 0, 1, 0, 0, 1]
        return [part[:, None] for part in parts.chunk(6, dim=-1)]

    def embed(self, latents: Tensor, e: Tensor | None) -> Tensor:
        x = F.conv2d(
            latents.double(),
            self.w["patch_embed.proj.weight"],
            self.w["patch_embed.proj.bias"],
            self.config["patch_size"],
        )
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        if self.config["pos_embed"] == "ape":
            table = self.w["patch_embed.pos_embed"].view(64, 64, -1)
            top, left = (64 - rows) // 2, (64 - columns) // 2
            x = x + table[top : top + rows, left : left + columns].flatten(0, 1)
        return x + e[:, None] if self.conditioning == "addition" else x

    def output(self, x: Tensor, e: Tensor | None, rows: int, columns: int) -> Tensor:
        if self.conditioning == "adaln-zero":
            scale, shift = self.linear(F.silu(e), "norm_out.linear")[:, None].chunk(2, dim=-1)
            x = self.norm(x, "norm_out.norm") * (1 + scale) + shift
        elif self.conditioning == "adaln-single":
            shift, scale = (self.w["scale_shift_table"] + torch.cat([e, e], dim=-1))[:, None].chunk(2, dim=-1)
            x = self.norm(x, "norm_out") * (1 + scale) + shift
        else:
            x = self.norm(x, "norm_out")
        patch = self.config["patch_size"]
        x = self.linear(x, "proj_out").view(len(x), rows, columns, patch, patch, -1)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, rows * patch, columns * patch)

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor, mask: Tensor, input_ids: Tensor) -> Tensor:
        patch, sandwich = self.config["patch_size"], self.config["sandwich_norm"]
        rows, columns = latents.shape[-2] // patch, latents.shape[-1] // patch
        e = self.time(timesteps)
        x = self.embed(latents, e)
        fused = self.kind == "FuseDiT"
        base = self.base["rope_theta"] if fused else BASES[self.kind]
        offset = mask.sum(1) if fused else torch.zeros(len(x))
        angles = image_angles(rows, columns, self.head, base, offset)
        if self.config["pos_embed"] == "ape":
            angles = angles * 0
        layers = self.text_keys_values(input_ids, mask) if fused else self.contexts(text, timesteps)
        added = additive(mask)[:, None, None]
        for block in range(self.blocks):
            stem = f"layers.{block}."
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.six(e, block)
            pre = "input_layernorm.norm" if self.conditioning == "adaln-zero" else "input_layernorm"
            y = self.norm(x, stem + pre) * (1 + scale) + shift
            attn = f"{stem}self_attn."
            query = turn(self.norm(self.heads(y, f"{attn}q_proj"), f"{attn}q_norm"), angles)
            key = turn(self.norm(self.heads(y, f"{attn}k_proj"), f"{attn}k_norm"), angles)
            value = self.heads(y, f"{attn}v_proj")
            if fused:
                text_key, text_value = layers[self.config["initial_layers"] + block]
                key, value = torch.cat([text_key, key], dim=2), torch.cat([text_value, value], dim=2)
                y = attend(query, key, value, F.pad(added, (0, rows * columns)))
            else:
                y = attend(query, key, value, None)
            y = self.linear(y, f"{attn}o_proj")
            x = x + gate * (self.norm(y, f"{stem}post_attention_layernorm") if sandwich else y)
            if not fused:
                cross, context = f"{stem}cross_attn.", layers[block]
                query = self.norm(self.heads(x, f"{cross}q_proj"), f"{cross}q_norm")
                key = self.norm(self.heads(context, f"{cross}text_k_proj"), f"{cross}k_norm")
                y = attend(query, key, self.heads(context, f"{cross}text_v_proj"), added)
                y = self.linear(y, f"{cross}o_proj")
                x = x + (self.norm(y, f"{stem}post_cross_attention_layernorm") if sandwich else y)
            pre = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
            y = self.mlp(self.norm(x, stem + pre) * (1 + mlp_scale) + mlp_shift, f"{stem}mlp")
            x = x + mlp_gate * (self.norm(y, f"{stem}post_feedforward_layernorm") if sandwich else y)
        return self.output(x, e, rows, columns)

    def text_keys_values(self, input_ids: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every language-model layer's rotated keys and values: a plain pre-norm decoder, causal, padding unseen."""
        tokens = input_ids.shape[1]
        x = self.w["llm.embed_tokens.weight"][input_ids]
        frequencies = self.base["rope_theta"] ** (-2 * torch.arange(self.head // 2, dtype=torch.float64) / self.head)
        angles = torch.arange(tokens)[:, None] * frequencies
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril() & mask[:, None]
        kept = []
        for layer in range(self.base["num_hidden_layers"]):
            stem = f"llm.layers.{layer}."
            y = self.norm(x, f"{stem}input_layernorm")
            attn = f"{stem}self_attn."
            query = turn(self.norm(self.heads(y, f"{attn}q_proj"), f"{attn}q_norm"), angles)
            key = turn(self.norm(self.heads(y, f"{attn}k_proj"), f"{attn}k_norm"), angles)
            value = self.heads(y, f"{attn}v_proj")
            kept.append((key, value))
            x = x + self.linear(attend(query, key, value, additive(seen)[:, None]), f"{attn}o_proj")
            x = x + self.mlp(self.norm(x, f"{stem}post_attention_layernorm"), f"{stem}mlp")
        return kept


def schedule(shift: float, steps: int) -> Tensor:
    """Sigmas of the reference's inference: the shift acts on the ends and then once more on all, with a trailing 0."""

    def shifted(sigma: Tensor) -> Tensor:
        return shift * sigma / (1 + (shift - 1) * sigma)

    last = float(shifted(torch.tensor(0.001, dtype=torch.float64)))
    sigmas = shifted(torch.linspace(1, last, steps, dtype=torch.float64))
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
