"""Sampling with `depth-wise` routing against the reference's way: wanted is 0.75 × the time and 0.5 × the memory.

The DiT alone, at full-size widths with fewer blocks, on guided 256 × 256 images (32 × 32 latents); a prompt of 40 real
tokens beside the empty one. Ours prepares the text once a prompt and then makes steps from keys and values; the
reference's way (`benchmarks.baseline`) repeats all text work on 512 positions in every step.

A whole run is not made. Three things are timed in turns: our work of a prompt, our step, and the reference's step; a
run is (prompt + steps × step) on our side and steps × step on the other. Memory is the peak of such a run beyond the
weights, hidden states of the text included.
"""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from semantic_routing.models.flops import count_forward, count_sampling
from semantic_routing.text import TextFeatures

from . import common
from .baseline import ReferenceWay
from .models import MAX_LENGTH, Sizes, guided, make_transformer
from .report import Report, Row

ROWS = 2  # an image and its unconditional twin


def make_text(sizes: Sizes, tokens: int, length: int, device: torch.device) -> TextFeatures:
    """Hidden states of the empty prompt, one token, and of one with `tokens`, padded to `length`."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (ROWS, sizes.text_layers, tokens, sizes.text_channels)
    states = torch.randn(shape, generator=generator, device=device, dtype=common.fast_dtype())
    mask = torch.arange(length, device=device) < torch.tensor([[1], [tokens]], device=device)
    return TextFeatures(F.pad(states, (0, 0, 0, length - tokens), value=1.0), mask)


@torch.no_grad()
def measure(sizes: Sizes, tokens: int, steps: int, rounds: int, device: torch.device) -> Report:
    """Times, peaks and counts of both sides."""
    model = make_transformer(sizes, "depth-wise", device, common.fast_dtype()).eval()
    reference = ReferenceWay(model)
    side = sizes.latent_size
    latents = torch.randn(ROWS, sizes.latent_channels, side, side, device=device, dtype=common.fast_dtype())
    timestep = torch.full((ROWS,), 500.0, device=device)

    def prepare(text: TextFeatures) -> object:
        return model.text_context(model.prepare_text(*text, reused=True), timestep[:1], cache=True)

    def our_run() -> Tensor:
        context = prepare(make_text(sizes, tokens, tokens, device))
        return model(latents, timestep, text_context=context).sample

    def reference_run() -> Tensor:
        return reference(latents, timestep, *make_text(sizes, tokens, MAX_LENGTH, device)).sample

    peaks = common.peaks({"ours": our_run, "reference's way": reference_run}, device)
    distance = common.check_agreement(our_run(), reference_run(), 0.05)
    text, padded = (make_text(sizes, tokens, length, device) for length in (tokens, MAX_LENGTH))
    context = prepare(text)
    seconds = common.alternate(
        {
            "our work of a prompt": lambda: prepare(text),
            "our step": lambda: model(latents, timestep, text_context=context),
            "the reference's step": lambda: reference(latents, timestep, *padded),
        },
        rounds,
        device,
    )
    prompts, ours, references = seconds.values()
    our_runs = [prompt + steps * taken for prompt, taken in zip(prompts, ours, strict=True)]
    step, reference_step, whole = count(model, side, tokens, steps)
    flops = {"our step": step, "the reference's step": reference_step}
    what = f"sampling, `depth-wise`, against the reference's way, {tokens} real tokens of {MAX_LENGTH}"
    times = common.ratios(our_runs, [steps * taken for taken in references])
    rows = [Row(f"{what}: time", "≤ 0.75", times, whole / (steps * reference_step))]
    if peaks:
        rows.append(Row(f"{what}: memory beyond weights", "≤ 0.5", [peaks["ours"] / peaks["reference's way"]]))
    stack, dtype = ROWS * sizes.text_layers * sizes.text_channels, latents.dtype
    notes = [
        f"A run is counted as {steps} steps; both sides give the same prediction, to {distance:.1e}.",
        f"Text at the peak, by count: {dtype.itemsize * stack * tokens / 2**20:.0f} MiB ours (real tokens), "
        f"{(dtype.itemsize + 4) * stack * MAX_LENGTH / 2**20:.0f} MiB in the reference's way (with a float32 copy, all "
        "positions).",
    ]
    return Report(f"{sizes}; {common.name_of(dtype)}", rows, seconds, peaks, flops, notes)


def count(model: Any, side: int, tokens: int, steps: int) -> tuple[float, float, float]:
    """FLOPs of our step, of the reference's, and of our whole run."""
    whole, shorter = (common.total(count_sampling(model, guided(side, tokens, n))) for n in (steps, steps - 1))
    return whole - shorter, common.total(count_forward(model, ROWS, side, MAX_LENGTH)), whole


def main(
    width: common.Width = 2048,
    blocks: common.Blocks = 4,
    text_layers: common.TextLayers = 36,
    tokens: Annotated[int, typer.Option(min=1, max=MAX_LENGTH, help="Of the prompt.")] = 40,
    steps: Annotated[int, typer.Option(min=2, help="Euler steps of the run that is counted.")] = 50,
    rounds: common.Rounds = 7,
    device: common.Device = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    target = common.choose_device(device)
    measure(Sizes(width, blocks, text_layers).checked(), tokens, steps, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
