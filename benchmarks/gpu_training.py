"""The DiT of the full-size recipe in training, as a share of the GPU's measured bfloat16 peak: wanted is 50 %.

Forward and backward of the loss's own DiT on hidden states that are there already, float32 weights under bfloat16
autocast. Its FLOPs are counted on the model, backward twice forward, recomputation not counted as work; the peak is
that of a large matrix product, measured in turns with the steps. Without a GPU the row is left out.

`--way fsdp2` shards the model as training on several GPUs does, over one process: what sharding costs by itself. `--way
fp8` makes the products of the blocks in fp8 with torchao; the share is still of the bfloat16 peak.
"""

from typing import Annotated, Literal

import torch
import torch.distributed as dist
import typer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.flops import count_forward

from . import common
from .models import Sizes, make_transformer, spread_lengths
from .report import Report, Row

SIDE = 8192

Way = Literal["plain", "fsdp2", "fp8"]


def change(model: SemanticRoutingTransformer2DModel, way: Way, device: torch.device) -> None:
    """Shards the model, or makes its blocks' products in fp8.

    Raises:
        ValueError: torchao is not installed.
    """
    if way == "fsdp2":
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        for part in (*model.blocks, model):
            fully_shard(part, mesh=init_device_mesh(device.type, (1,)))
    elif way == "fp8":
        try:
            from torchao.float8 import convert_to_float8_training
        except ImportError as error:
            raise ValueError("--way fp8 needs the package torchao, which is not installed.") from error
        convert_to_float8_training(model.blocks)


def measure(
    sizes: Sizes,
    strategy: str,
    way: Way,
    batch_size: int,
    tokens: int,
    checkpointing: bool,
    compiled: bool,
    side: int,
    rounds: int,
    device: torch.device,
) -> Report:
    """The share by round."""
    model = make_transformer(sizes, strategy, device)
    if checkpointing:
        model.enable_gradient_checkpointing()
    flops = 3 * common.total(count_forward(model, batch_size, sizes.latent_size, tokens))
    if compiled:
        model.compile_repeated_blocks()
    change(model, way, device)
    lengths = torch.tensor(spread_lengths(tokens, batch_size), device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    shape = (batch_size, sizes.text_layers, mask.shape[1], sizes.text_channels)
    text = torch.randn(shape, device=device, dtype=torch.bfloat16)
    latents = torch.randn(batch_size, sizes.latent_channels, sizes.latent_size, sizes.latent_size, device=device)
    timestep = torch.rand(batch_size, device=device) * 1000
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(latents, timestep, text, mask).sample.float().square().mean()
        loss.backward()

    def products() -> None:
        for _ in range(10):
            torch.matmul(a, b)

    peak_memory = common.peaks({"step": step}, device)
    seconds = common.alternate({"step": step, "10 products": products}, rounds, device)
    work = {"step": flops, "10 products": 20.0 * side**3}
    shares = common.ratios(
        [work["step"] / taken for taken in seconds["step"]],
        [work["10 products"] / taken for taken in seconds["10 products"]],
    )
    row = Row(f"DiT in training, `{strategy}`, {way}: share of the measured bfloat16 matrix peak", "≥ 0.5", shares, 1.0)
    notes = [f"{batch_size / common.median(seconds['step']):.1f} images/s; products of {side} × {side}."]
    options = f"batch {batch_size}, {tokens} tokens, checkpointing {checkpointing}, compiled {compiled}"
    return Report(f"{sizes}; {options}", [row], seconds, peak_memory, work, notes)


def main(
    strategy: Annotated[str, typer.Option(help="Fusion strategy.")] = "depth-wise",
    way: Annotated[Way, typer.Option(help="As it is, sharded over one process, or with fp8 products.")] = "plain",
    width: common.Width = 2048,
    blocks: common.Blocks = 24,
    text_layers: common.TextLayers = 36,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    tokens: Annotated[int, typer.Option(min=3, max=300, help="Of a caption, on average.")] = 150,
    checkpointing: Annotated[bool, typer.Option(help="Gradient checkpointing.")] = False,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Compile the repeated block.")] = True,
    side: Annotated[int, typer.Option(min=1, help="Of the square matrices that tell the peak.")] = SIDE,
    rounds: common.Rounds = 10,
    device: Annotated[str | None, typer.Option(help="Default: cuda; without it nothing is measured.")] = None,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    if device is None and not torch.cuda.is_available():
        typer.echo("The row of the DiT in training needs a GPU, and there is none: it is left out of the table.")
        return
    target = common.choose_device(device)
    sizes = Sizes(width, blocks, text_layers).checked()
    measure(sizes, strategy, way, batch_size, tokens, checkpointing, compiled, side, rounds, target).finish(out, target)


if __name__ == "__main__":
    common.run(main)
