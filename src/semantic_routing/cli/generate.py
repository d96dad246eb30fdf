"""`sroute generate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Pipeline folder or hub name; default: the demo model.")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Text file with one prompt a line.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("images"),
    images_per_prompt: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Image i of every prompt starts from noise seed + i.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Euler steps.")] = 50,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale; 1 is none.")] = 2.0,
    negative_prompt: Annotated[str | None, typer.Option(help="What guidance moves away from.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels a side; default: the model's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 8,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option()] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is one.")] = None,
) -> None:
    """Make images from prompts, and one grid of them all with a row a prompt."""
    from ..pipelines.generate import generate_files, read_prompts

    texts = [*(prompts or []), *(read_prompts(prompts_file) if prompts_file else [])]
    written = generate_files(
        texts, out, pipeline, images_per_prompt, seed, steps, guidance, negative_prompt, size, batch_size, dtype, device
    )
    typer.echo(f"Wrote {len(written)} images and grid.png to {out}")
