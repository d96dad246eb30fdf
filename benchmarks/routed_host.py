"""A step of a host with a fusion in it against one without: wanted is at most 1.02 × the time.

The hosts are random transformers of `diffusers`, and their text is random, too. A prompt's text is one tensor for all
steps, as pipelines give it, so that what the fusion adds is made in the first step, which is not timed. What remains in
a step is the addition in each block: to what its cross-attention reads, or to the text positions of a joint stream.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
import typer
from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel, SanaTransformer2DModel
from torch import Tensor, nn

from semantic_routing.adapters import widen
from semantic_routing.adapters.attach import attach_fusion

from . import common
from .report import Report, Row

HEAD = 64


class Sizes(NamedTuple):
    """Of hosts and their text."""

    width: int
    blocks: int
    side: int
    layers: int
    channels: int
    tokens: int


class TimedHost(NamedTuple):
    """A transformer, and what it is called with beside text."""

    model: Any
    inputs: dict[str, Any]


def pixart(sizes: Sizes) -> TimedHost:
    """Cross-attention, text through a projection."""
    model = PixArtTransformer2DModel(
        num_attention_heads=sizes.width // HEAD, attention_head_dim=HEAD, num_layers=sizes.blocks, in_channels=4,
        out_channels=8, cross_attention_dim=sizes.width, caption_channels=sizes.channels, sample_size=2 * sizes.side,
        use_additional_conditions=False,
    )  # fmt: skip
    added = {"resolution": None, "aspect_ratio": None}
    return TimedHost(model, {**image(4, 2 * sizes.side, 2 * sizes.side), "added_cond_kwargs": added})


def sana(sizes: Sizes) -> TimedHost:
    """Linear attention and cross-attention."""
    model = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=sizes.width // 32, attention_head_dim=32,
        num_layers=sizes.blocks, num_cross_attention_heads=sizes.width // HEAD, cross_attention_head_dim=HEAD,
        cross_attention_dim=sizes.width, caption_channels=sizes.channels, sample_size=sizes.side,
    )  # fmt: skip
    return TimedHost(model, image(4, sizes.side, sizes.side))


def flux(sizes: Sizes) -> TimedHost:
    """Two streams, then one."""
    model = FluxTransformer2DModel(
        num_attention_heads=sizes.width // HEAD, attention_head_dim=HEAD, num_layers=sizes.blocks // 3,
        num_single_layers=sizes.blocks - sizes.blocks // 3, in_channels=4, joint_attention_dim=sizes.channels,
        pooled_projection_dim=64, axes_dims_rope=(16, 24, 24),
    )  # fmt: skip
    places = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), *2 * [torch.arange(sizes.side)]).float()
    more = {"pooled_projections": torch.randn(2, 64), "img_ids": places, "txt_ids": torch.zeros(sizes.tokens, 3)}
    return TimedHost(model, {**image(sizes.side**2, 4), **more, "guidance": None})


def image(*shape: int) -> dict[str, Tensor]:
    """Two rows, as with guidance, at some time."""
    return {"hidden_states": torch.randn(2, *shape), "timestep": torch.full((2,), 0.5)}


HOSTS: dict[str, Callable[[Sizes], TimedHost]] = {"pixart": pixart, "sana": sana, "flux": flux}


def step_seconds(model: nn.Module, inputs: dict[str, Any], steps: int, device: torch.device) -> float:
    """Seconds of a step, as a mean over all but the first; on a CPU its own, which other processes disturb less."""
    text = inputs["encoder_hidden_states"].clone()  # a new prompt
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for number in range(steps):
        model(**inputs | {"encoder_hidden_states": text})
        if not number:
            common.synchronise(device)
            started = clock()
    common.synchronise(device)
    return (clock() - started) / (steps - 1)


def compare(name: str, fusion: str, sizes: Sizes, steps: int, rounds: int, device: torch.device) -> Report:
    """Times of a step of one host."""
    plain, inputs = HOSTS[name](sizes)
    dtype = common.fast_dtype()
    plain = plain.eval().requires_grad_(False).to(device, dtype)
    routed = copy.deepcopy(plain)
    routing = attach_fusion(routed, fusion, list(range(1, sizes.layers + 1)), sizes.channels, {}).to(device)
    nn.init.normal_(routing.gain)  # zero gains would add nothing
    text = torch.randn(2, sizes.tokens, sizes.channels)
    wide = widen(text, torch.randn(2, sizes.layers, sizes.tokens, sizes.channels))

    def placed(text: Tensor) -> dict[str, Any]:
        """The inputs with this text, where the model is."""
        values = {**inputs, "encoder_hidden_states": text}
        return {key: value.to(device, dtype) if isinstance(value, Tensor) else value for key, value in values.items()}

    sides = {
        f"{name}, routed": partial(step_seconds, routed, placed(wide), steps, device),
        name: partial(step_seconds, plain, placed(text), steps, device),
    }
    with torch.no_grad():
        seconds = common.alternate(sides, rounds, device, lambda side, _: side())
    what = f"a step of a {type(plain).__name__} with `{fusion}`, against one without: time"
    row = Row(what, "≤ 1.02", common.ratios(seconds[f"{name}, routed"], seconds[name]), 1.0)
    return Report("", [row], seconds)


def main(
    host: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(HOSTS)}. Default: all.")] = None,
    fusion: Annotated[str, typer.Option(help="That varies with neither timestep nor state.")] = "depth-wise",
    width: Annotated[int, typer.Option(help=f"Of the hosts, a multiple of {HEAD}.")] = 768,
    blocks: Annotated[int, typer.Option(min=3, help="Of the hosts.")] = 12,
    side: Annotated[int, typer.Option(min=2, help="Image tokens a side.")] = 16,
    text_layers: common.TextLayers = 24,
    text_channels: Annotated[int, typer.Option(help="Width of the text encoder.")] = 1024,
    tokens: Annotated[int, typer.Option(min=1, help="Of the prompt, padding included.")] = 120,
    steps: Annotated[int, typer.Option(min=2, help="All but the first are timed.")] = 5,
    rounds: common.Rounds = 9,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    target, sizes = common.choose_device(device), Sizes(width, blocks, side, text_layers, text_channels, tokens)
    reports = [compare(name, fusion, sizes, steps, rounds, target) for name in host or HOSTS]
    Report(
        f"width {width}, {blocks} blocks, {side * side} image tokens; {text_layers} layers of {text_channels}",
        [row for report in reports for row in report.rows],
        {name: seconds for report in reports for name, seconds in report.seconds.items()},
        notes=[f"Two rows, {tokens} tokens of text, mean over steps 2 to {steps}."],
    ).finish(out, target)


if __name__ == "__main__":
    common.run(main)
