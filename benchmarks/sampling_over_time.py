"""Sampling with `time-wise` and `joint` routing against `penultimate`, whole pipeline: wanted is 1.02 × the time.

All pipelines share one DiT and one random Qwen3 language model, and make the same guided image in turns. What depends
on time must be made anew in each step: the mixture of layers and, from it, context, keys and values of the prompt's
real tokens; the context once for all blocks (`time-wise`) or for each (`joint`).
"""

from typing import Annotated

import typer

from . import common
from .models import Sizes
from .whole_pipeline import compare


def main(
    width: common.Width = 1024,
    blocks: common.Blocks = 4,
    text_layers: common.TextLayers = 36,
    tokens: Annotated[int, typer.Option(min=1, help="Of the prompt.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Euler steps.")] = 20,
    rounds: common.Rounds = 5,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    sizes, target = Sizes(width, blocks, text_layers).checked(), common.choose_device(device)
    compare(["time-wise", "joint"], "≤ 1.02", sizes, tokens, steps, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
