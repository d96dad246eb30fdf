"""Fusing the text of all blocks at once, against memory alone: wanted is at most 1.3 × the time on a GPU.

One side is the router's `prepare` and `forward`: from the hidden states of all layers, as the language model gives
them, to the context of every block, normalization included. The other reads as many bytes as the stack has once, and
writes as many as the result has once: no fusion can do with less. By counts the ratio is at least 1 or, where the
matrix product by itself would take longer at the machine's measured peak, that time over the other side's.
"""

from collections.abc import Callable
from typing import Annotated

import torch
import typer

from semantic_routing.fusion import SemanticRouter

from . import common
from .report import Report, Row


def move(stack: torch.Tensor, result: torch.Tensor) -> None:
    """Reads the stack once and writes the result once: what both have is copied, the rest only read or only written."""
    source, target = (tensor.view(torch.int64).flatten() for tensor in (stack, result))
    common_size = min(len(source), len(target))
    target[:common_size].copy_(source[:common_size])
    source[common_size:].sum()
    target[common_size:].zero_()


@torch.no_grad()
def measure(
    strategy: str,
    blocks: int,
    layers: int,
    tokens: int,
    channels: int,
    compiled: bool,
    rounds: int,
    device: torch.device,
) -> Report:
    """Times of both sides and counts of the product."""
    router = SemanticRouter(strategy, layers, blocks).to(device)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    stack = torch.randn(1, layers, tokens, channels, dtype=common.fast_dtype(), device=device)
    timestep = torch.tensor([500.0], device=device)
    result = router(router.prepare(stack), timestep).clone()

    def fusing() -> torch.Tensor:
        return router(router.prepare(stack), timestep)

    sides: dict[str, Callable[[], object]] = {"fusing": fusing, "moving the bytes": lambda: move(stack[0], result)}
    if compiled:
        compiled_form = torch.compile(fusing, dynamic=False)
        common.check_agreement(compiled_form(), result, 0.02)
        sides["fusing, compiled"] = compiled_form
    seconds = common.alternate(sides, rounds, device)
    flops = {"fusing": 2.0 * len(result) * stack.numel()}
    product = flops["fusing"] / common.matrix_peak(device)
    moved = common.median(seconds["moving the bytes"])
    rows = [
        Row(
            f"{name.replace('fusing', 'fusing all blocks')}, `{strategy}`: time against reading the stack once and "
            "writing the result once",
            "≤ 1.3" if device.type == "cuda" else "≤ 1.3 on a GPU",
            common.ratios(taken, seconds["moving the bytes"]),
            max(1.0, product / moved),
        )
        for name, taken in seconds.items()
        if name in ("fusing", "fusing, compiled")
    ]
    notes = [
        f"{stack.nbytes / 2**20:.0f} MiB read, {result.nbytes / 2**20:.0f} MiB written; the product alone would take "
        f"{1000 * product:.1f} ms at the measured matrix peak, normalization not counted."
    ]
    sizes = f"{blocks} blocks, {layers} layers, {tokens} tokens, {channels} channels, {common.name_of(stack.dtype)}"
    return Report(sizes, rows, seconds, flops=flops, notes=notes)


def main(
    strategy: Annotated[str, typer.Option(help="Fusion strategy.")] = "depth-wise",
    blocks: common.Blocks = 24,
    layers: common.TextLayers = 36,
    tokens: Annotated[int, typer.Option(min=1, help="Of one prompt.")] = 512,
    channels: Annotated[int, typer.Option(min=4, help="Of the language model.")] = 2560,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure the compiled form as well.")] = False,
    rounds: common.Rounds = 30,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    target = common.choose_device(device)
    measure(strategy, blocks, layers, tokens, channels, compiled, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
