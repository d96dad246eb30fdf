"""The language model of the full-size recipe, with random weights, on captions: its share of the measured matrix peak.

Captions have lengths evenly spaced around the mean. Ours reads captions of one length together, without padding, as
training does in half precision; the other side pads all to the longest. Both give features of all layers.
"""

from typing import Annotated

import torch
import typer

from semantic_routing.models.flops import count_language_model
from semantic_routing.text import TextEncoder

from . import common
from .models import (
    MAX_LENGTH,
    Sizes,
    caption,
    language_model_config,
    make_language_model,
    make_tokenizer,
    spread_lengths,
)
from .report import Report, Row


@torch.no_grad()
def measure(sizes: Sizes, batch_size: int, tokens: int, rounds: int, device: torch.device) -> Report:
    """Times, peaks and counts of both sides."""
    model = make_language_model(sizes, device, torch.bfloat16)
    encoder = TextEncoder(model, make_tokenizer(), max_length=MAX_LENGTH)
    lengths = spread_lengths(tokens, batch_size)
    captions = [caption(length, number) for number, length in enumerate(lengths)]
    padded = [tensor.to(device) for tensor in encoder.tokenize(captions)]
    sides = {"ours": lambda: encoder(captions), "padded": lambda: encoder.read(padded[0], padded[1])}
    peaks = common.peaks(sides, device)
    seconds = common.alternate(sides, rounds, device)
    config = language_model_config(sizes)
    flops = {
        "ours": sum(common.total(count_language_model(config, 1, length)) for length in lengths),
        "padded": common.total(count_language_model(config, batch_size, max(lengths))),
    }
    ratios, floor = common.ratios(*seconds.values()), flops["ours"] / flops["padded"]
    row = Row(f"text encoder, {tokens} tokens on average, against padded captions: time", "≤ 1", ratios, floor)
    notes = [f"{sum(lengths) / common.median(seconds['ours']):.0f} real tokens/s."]
    return Report(f"{sizes}; batch {batch_size}", [row], seconds, peaks, flops, notes)


def main(
    width: common.Width = 2048,
    text_layers: common.TextLayers = 36,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions at once.")] = 32,
    tokens: Annotated[int, typer.Option(min=3, max=300, help="Of a caption, on average.")] = 150,
    rounds: common.Rounds = 10,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    target = common.choose_device(device)
    sizes = Sizes(width, 1, text_layers).checked()
    measure(sizes, batch_size, tokens, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
