"""A training step against the reference's way, text encoder included: wanted is 0.5 × the time and 0.5 × the memory.

Both sides are the library's own training step on the same weights: captions through a random Qwen3 language model, the
DiT's loss, backward, AdamW, with float32 weights and gradient checkpointing as in the full-size recipe, under bfloat16
autocast where the machine is quick in it. Ours encodes captions without their padding; the reference's way
(`benchmarks.baseline`) pads every caption to 512 tokens, for the language model and for the DiT. Captions have lengths
evenly spaced around the mean.

Memory is the peak of a step beyond what is held between steps: weights, gradients and the optimizer's moments.
"""

from typing import Annotated, Any

import torch
import typer

from semantic_routing.data import Batch
from semantic_routing.flow_config import FlowConfig
from semantic_routing.models.flops import count_forward, count_language_model
from semantic_routing.models.latents import LatentCodec
from semantic_routing.text import TextEncoder
from semantic_routing.training.step import batch_loss

from . import common
from .baseline import PaddedTextEncoder, ReferenceWay
from .models import (
    MAX_LENGTH,
    Sizes,
    caption,
    language_model_config,
    make_language_model,
    make_tokenizer,
    make_transformer,
    spread_lengths,
)
from .report import Report, Row

PIXELS = 3  # in place of an autoencoder's latents the step gets pictures of their size


class Step:
    """A training step of one side; called, it returns the loss."""

    def __init__(self, transformer: Any, encoder: TextEncoder, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        self.transformer, self.encoder, self.batch, self.optimizer = transformer, encoder, batch, optimizer
        self.device = encoder.model.device

    def loss(self) -> torch.Tensor:
        """As the trainer computes it."""
        dtype = common.fast_dtype()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = batch_loss(
                self.transformer,
                self.batch,
                self.encoder,
                LatentCodec(),
                FlowConfig(),
                "velocity",
                self.device,
                dtype,
            )
        loss: torch.Tensor = losses.mean()
        return loss

    def __call__(self) -> None:
        """Forward, backward, update. Gradients stay allocated, so that they count as held between steps."""
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def count_step(model: Any, sizes: Sizes, lengths: list[int], checkpointing: bool) -> float:
    """FLOPs of a step in which every caption has the positions that `lengths` says: backward is twice forward."""
    config = language_model_config(sizes)
    language_model = sum(common.total(count_language_model(config, 1, length)) for length in lengths)
    mean = round(sum(lengths) / len(lengths))
    forward = common.total(count_forward(model, len(lengths), sizes.latent_size, mean))
    return language_model + (4 if checkpointing else 3) * forward


def measure(
    sizes: Sizes, batch_size: int, tokens: int, checkpointing: bool, rounds: int, device: torch.device
) -> Report:
    """Times, peaks and counts of both sides."""
    model = make_transformer(sizes, "depth-wise", device)
    if checkpointing:
        model.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    parts = make_language_model(sizes, device, common.fast_dtype()), make_tokenizer()
    lengths = spread_lengths(tokens, batch_size)
    images = torch.randn(batch_size, PIXELS, sizes.latent_size, sizes.latent_size)
    captions = [caption(length, number) for number, length in enumerate(lengths)]
    batch = Batch(images, captions, torch.arange(batch_size), [])
    ours = Step(model, TextEncoder(*parts, max_length=MAX_LENGTH), batch, optimizer)
    reference = Step(ReferenceWay(model), PaddedTextEncoder(*parts, max_length=MAX_LENGTH), batch, optimizer)

    sides = {"ours": ours, "reference's way": reference}
    peaks = common.peaks(sides, device)
    distance = common.check_agreement(ours.loss().detach(), reference.loss().detach(), 0.02)
    seconds = common.alternate(sides, rounds, device)
    flops = {
        "ours": count_step(model, sizes, lengths, checkpointing),
        "reference's way": count_step(model, sizes, [MAX_LENGTH] * batch_size, checkpointing),
    }
    what = f"training step, against the reference's way, {tokens} real tokens of {MAX_LENGTH} on average"
    rows = [Row(f"{what}: time", "≤ 0.5", common.ratios(*seconds.values()), flops["ours"] / flops["reference's way"])]
    if peaks:
        rows.append(Row(f"{what}: memory beyond weights", "≤ 0.5", [peaks["ours"] / peaks["reference's way"]]))
    notes = [
        f"Captions of {', '.join(map(str, lengths))} tokens; both sides give the same loss, to {distance:.1e}.",
    ]
    return Report(f"{sizes}; batch {batch_size}, checkpointing {checkpointing}", rows, seconds, peaks, flops, notes)


def main(
    width: common.Width = 512,
    blocks: common.Blocks = 24,
    text_layers: common.TextLayers = 36,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions and images at once.")] = 8,
    tokens: Annotated[int, typer.Option(min=3, max=300, help="Of a caption, on average.")] = 150,
    checkpointing: Annotated[bool, typer.Option(help="Gradient checkpointing, on both sides.")] = True,
    rounds: common.Rounds = 3,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    target = common.choose_device(device)
    sizes = Sizes(width, blocks, text_layers, latent_channels=PIXELS).checked()
    measure(sizes, batch_size, tokens, checkpointing, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
