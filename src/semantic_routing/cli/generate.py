"""`sroute generate`."""

from pathlib import Path
from typing import Annotated

import typer

from ..io.importing import importing
from .options import Device, Dtype


def command(
    texts: Annotated[list[str] | None, typer.Argument(metavar="PROMPTS", help="One or more prompts.")] = None,
    pipeline: Annotated[str, typer.Option(help="Pipeline folder or hub name; demo is the demo model.")] = "demo",
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text file with one prompt a line, after those given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("images"),
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Image i of every prompt starts from noise seed + i.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Euler steps. Default: the pipeline's own number.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Scale of classifier-free guidance; 1 is none. Default: the pipeline's own."),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What guidance moves away from.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels a side. Default: the model's size.")] = None,
    layer_gains: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER=FACTOR,…",
            help="How much is taken of language-model layers: 3=0,5=2; all=0,5=1 hears layer 5 alone; 2:5=0 drops it "
            "in block 2.",
        ),
    ] = None,
    fusion_scale: Annotated[
        float,
        typer.Option(
            help="How far fusion weights lie from the plain mean of layers: 1 as trained, 0 the mean, 2 twice as far."
        ),
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 8,
    save_steps: Annotated[
        bool, typer.Option("--save-steps", help="Write an animated PNG of the steps beside each image.")
    ] = False,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Make images of prompts, and one grid with a row for each prompt.

    Each file keeps its prompt, its seed and the settings as PNG texts.
    """
    with importing():
        from ..fusion import read_gains
        from ..pipelines.generate import generate_files, read_prompts

    gains = None if layer_gains is None else read_gains(layer_gains)
    written = generate_files(
        [*(texts or []), *(read_prompts(prompts) if prompts else [])],
        out,
        pipeline,
        images_per_prompt,
        seed,
        steps,
        guidance,
        negative_prompt,
        size,
        batch_size,
        dtype,
        device,
        gains,
        save_steps,
        fusion_scale,
    )
    typer.echo(f"Wrote {len(written)} images and grid.png to {out}")
