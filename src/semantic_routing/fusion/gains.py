"""Routing as a knob: layers scaled, dropped or heard alone, and routing exaggerated or undone, while sampling."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .contract import Moment, Prepared, TextFusion
from .routed import RoutedFusion

LayerKey = int | Literal["all"]
GainKey = LayerKey | tuple[int, LayerKey]
LayerGains = Mapping[GainKey, int | float]
"""Factors by the number of a layer, where "all" stands for every layer that is not named. A pair of a block's number
and a layer's is for this block alone and goes before: {"all": 0, 5: 1} hears layer 5 alone, {(3, 5): 0} drops it in
block 3."""


def gains_of(gains: LayerGains, layers: Sequence[int], num_blocks: int) -> Float[Tensor, "blocks layers"]:
    """A row of factors for all blocks, or one for each where single blocks are named.

    Args:
        gains: what the user asks for.
        layers: numbers of the layers that the fusion reads, in its order.
        num_blocks: blocks of the diffusion model.

    Raises:
        ValueError: a layer that is not read, a block that does not exist, or a factor that is not a finite number.
    """
    for key, gain in gains.items():
        block, layer = key if isinstance(key, tuple) else (0, key)
        if block not in range(num_blocks):
            raise ValueError(f"There is no block {block} to set gains of: the blocks are 0 to {num_blocks - 1}.")
        if layer != "all" and layer not in layers:
            raise ValueError(f"Layer {layer!r} has a gain but is not read: the model reads {list(layers)}.")
        if not math.isfinite(gain):
            raise ValueError(f"The gain of a layer is a finite number, but that of layer {layer} is {gain}.")
    rows = num_blocks if any(isinstance(key, tuple) for key in gains) else 1
    return torch.tensor([[_gain(gains, block, layer) for layer in layers] for block in range(rows)])


def _gain(gains: LayerGains, block: int, layer: int) -> float:
    keys: tuple[GainKey, ...] = ((block, layer), (block, "all"), layer, "all")
    return float(next((gains[key] for key in keys if key in gains), 1.0))


def read_gains(text: str) -> LayerGains:
    """Gains as they are written on a command line: `all=0,5=1`, or `3:5=0` for layer 5 in block 3.

    Raises:
        ValueError: a part is written otherwise.
    """
    gains: dict[GainKey, int | float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:(\d+):)?(\d+|all)\s*=\s*([^=\s]+)\s*", part)
        try:
            if match is None:
                raise ValueError
            layer: LayerKey = "all" if match[2] == "all" else int(match[2])
            gains[layer if match[1] is None else (int(match[1]), layer)] = float(match[3])
        except ValueError:
            raise ValueError(f"Gains are written LAYER=FACTOR,… such as 3=0,5=2 or all=0,5=1, not {part!r}.") from None
    return gains


def write_gains(gains: LayerGains) -> str:
    """Gains as `read_gains` reads them."""
    names = ((f"{key[0]}:{key[1]}" if isinstance(key, tuple) else str(key), gain) for key, gain in gains.items())
    return ",".join(f"{name}={gain:g}" for name, gain in names)


def check_scale(scale: float, fusion: TextFusion | None) -> None:
    """Refuses a fusion scale that cannot be.

    A scale s turns the weights α of L layers into 1/L + s (α − 1/L): 1 is as trained, 0 the plain mean of layers, more
    than 1 exaggerates what was learned. The weights still sum to 1.

    Args:
        scale: what the user asks for.
        fusion: whose weights are scaled; None where a model has none.

    Raises:
        ValueError: the scale is not a finite number, or not 1 while the fusion is no convex mixture of layers.
    """
    if not math.isfinite(scale):
        raise ValueError(f"The fusion scale is a finite number, not {scale}.")
    if scale != 1 and not (isinstance(fusion, RoutedFusion) and fusion.convex):
        kind = "no fusion" if fusion is None else type(fusion).__name__
        raise ValueError(
            f"A fusion scale of {scale:g} needs a convex mixture of layers, but this model has {kind}: expected 1."
        )


def fuse_with_gains(
    fusion: TextFusion, prepared: Prepared, moment: Moment
) -> Float[Tensor, "blocks batch text_tokens out_channels"]:
    """What `fusion` gives with `prepared.gains`, each token as large as without them.

    The fusion decides by the features as they are; gains scale what it then takes of them. A token of which nothing is
    left stays zero.
    """
    plain = fusion(prepared._replace(gains=None), moment)
    gains = prepared.gains
    if gains is None:
        return plain
    if "state" in fusion.varies_with and len(gains) > 1:
        _, block = fusion.state_of(moment)
        gains = gains[block : block + 1]
    shape = (-1, math.prod(fusion.readers))
    rows = [tuple(row) for row in gains.tolist()]
    made = {
        row: fusion(prepared._replace(gains=gains.new_tensor([row])), moment).unflatten(0, shape)
        for row in dict.fromkeys(rows)
    }
    changed = [made[row] for row in rows]
    if len(changed) > 1:  # block by block, each with its own gains
        changed = [torch.stack([context[min(number, len(context) - 1)] for number, context in enumerate(changed)])]
    sizes, plain_sizes = (
        torch.linalg.vector_norm(context, dim=-1, keepdim=True, dtype=torch.float32)
        for context in (changed[0], plain.unflatten(0, shape))
    )
    scale = plain_sizes / sizes.clamp(min=torch.finfo(torch.float32).tiny)
    return (changed[0] * scale.to(plain.dtype)).flatten(0, 1)
