"""`sroute analyze`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    pipeline: Annotated[str, typer.Argument(help="Pipeline folder or hub name; 'demo' is the demo model.")],
    out: Annotated[Path, typer.Argument(help="Folder for index.html, figures and numbers.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="weights, similarity, trend, drift, trajectory, shift, usage, prompt or overhead; can be repeated. "
            "Default: all that apply to the model."
        ),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt a line; default: scenes.")] = None,
    num_prompts: Annotated[int, typer.Option(min=1, help="How many scenes, where no file is given.")] = 44,
    steps: Annotated[int, typer.Option(min=2, help="Euler steps.")] = 50,
    guidance: Annotated[float, typer.Option(min=1, help="Classifier-free guidance scale of samples.")] = 2.0,
    scales: Annotated[
        list[float] | None,
        typer.Option(help="More guidance scales for trajectories; can be repeated. 1 always is one."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i starts from noise seed + i.")] = 0,
    all_blocks: Annotated[bool, typer.Option("--all-blocks", help="Curves for all blocks, not for three.")] = False,
    amplitude: Annotated[float, typer.Option(help="Of the gate's advance in 'shift', in flow time.")] = 0.1,
    window: Annotated[tuple[float, float], typer.Option(help="Flow times of that advance's beginning and end.")] = (
        0,
        1,
    ),
    save_map: Annotated[
        Literal["paired", "marginal"] | None,
        typer.Option(help="Save the measured effective time with the pipeline, whose gate then sees it in sampling."),
    ] = None,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option()] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is one.")] = None,
) -> None:
    """Look inside a trained model: every figure and table of the paper, as one page that needs no network."""
    from ..analysis.base import AnalysisOptions
    from ..analysis.report import analyze
    from ..pipelines.generate import read_prompts

    options = AnalysisOptions(
        all_blocks=all_blocks,
        prompts=tuple(read_prompts(prompts)) if prompts else None,
        num_prompts=num_prompts,
        steps=steps,
        guidance=guidance,
        guidance_scales=tuple(scales or AnalysisOptions.guidance_scales),
        seed=seed,
        amplitude=amplitude,
        window=window,
        dtype=dtype,
        device=device,
    )
    page = analyze(None if pipeline == "demo" else pipeline, out, only or [], options, save_map)
    typer.echo(f"Open {page.resolve().as_uri()}")
