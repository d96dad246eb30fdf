"""Sampling with `depth-wise` routing against `penultimate`, whole pipeline: wanted is at most 1.00 × the time.

Both pipelines share one DiT and one random Qwen3 language model, and make the same guided image in turns. `depth-wise`
runs the language model one layer further and makes a context for each block, once a prompt; its steps are the same.
Fewer steps than the usual 50 make the work of a prompt count for more than it would.
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
    rounds: common.Rounds = 7,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    sizes, target = Sizes(width, blocks, text_layers).checked(), common.choose_device(device)
    compare(["depth-wise"], "≤ 1.00", sizes, tokens, steps, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
