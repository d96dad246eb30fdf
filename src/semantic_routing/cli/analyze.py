"""`sroute analyze`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Device, Dtype, HostOptions, HostSize, Routing, read_host_options


def _list(asked: bool) -> bool:
    """Prints all analyses, those of imported files too."""
    if asked:
        from ..analysis import ANALYSES

        for name, analysis in ANALYSES.items():
            typer.echo(f"{name:12} {analysis.title}. Needs {analysis.needs}.")
        raise typer.Exit
    return asked


def command(
    pipeline: Annotated[str, typer.Argument(help="Pipeline folder or hub name; 'demo' is the demo model.")],
    out: Annotated[Path, typer.Argument(help="Folder for index.html, figures and numbers.")],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Name of an analysis, see --list; can be repeated. Default: all that apply to the model."),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="Print the analyses and stop.")
    ] = False,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt a line; default: scenes.")] = None,
    num_prompts: Annotated[int, typer.Option(min=1, help="How many scenes, where no file is given.")] = 44,
    skills: Annotated[
        str | None,
        typer.Option(help="Skills of these scenes, joined by commas; default: those of the training, where known."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Euler steps; default: the pipeline's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=1, help="Classifier-free guidance scale of samples; default: the pipeline's.")
    ] = None,
    scales: Annotated[
        list[float] | None,
        typer.Option(help="More guidance scales for trajectories; can be repeated. 1 is always included."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i starts from noise seed + i.")] = 0,
    all_blocks: Annotated[
        bool, typer.Option("--all-blocks", help="Draw curves for all blocks, not for three.")
    ] = False,
    amplitude: Annotated[float, typer.Option(help="For 'shift': A of the paper's eq. 11, in flow time.")] = 0.01,
    save_map: Annotated[
        Literal["paired", "marginal"] | None,
        typer.Option(help="Save the measured effective time with the pipeline, whose fusion then sees it in sampling."),
    ] = None,
    routing: Routing = None,
    host_size: HostSize = None,
    host_options: HostOptions = None,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Look inside a trained model: every figure and table of the paper, as one page that needs no network."""
    from ..analysis.model import AnalysisOptions
    from ..analysis.report import analyze
    from ..pipelines.generate import read_prompts

    options = AnalysisOptions(
        all_blocks=all_blocks,
        prompts=tuple(read_prompts(prompts)) if prompts else None,
        num_prompts=num_prompts,
        skills=tuple(skill.strip() for skill in skills.split(",")) if skills else None,
        steps=steps,
        guidance=guidance,
        guidance_scales=tuple(scales or AnalysisOptions.guidance_scales),
        seed=seed,
        amplitude=amplitude,
        dtype=dtype,
        device=device,
    )
    page = analyze(pipeline, out, only or [], options, save_map, routing, host_size, read_host_options(host_options))
    typer.echo(f"Open {page.resolve().as_uri()}")
