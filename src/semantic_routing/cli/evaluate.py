"""`sroute evaluate`: a command a benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ..evaluation.report import Result

app = typer.Typer(no_args_is_help=True, help="Sample and score a benchmark, with 95 % intervals for every score.")

Action = Annotated[Literal["sample", "score", "both"], typer.Argument(help="What to do.")]
Pipeline = Annotated[str | None, typer.Option(help="Pipeline folder or hub name; default: the demo model.")]
Out = Annotated[Path, typer.Option(help="Folder for images and results; a second run goes on from what is there.")]
Images = Annotated[Path | None, typer.Option(help="Score these images; default: those in --out.")]
ImagesPerPrompt = Annotated[int, typer.Option(min=1, help="Images a prompt.")]
Steps = Annotated[int, typer.Option(min=1, help="Euler steps.")]
Guidance = Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale; 1 is none.")]
Seed = Annotated[int, typer.Option(min=0, help="Image i of prompt p starts from noise of (seed, p, i).")]
SameNoise = Annotated[bool, typer.Option("--same-noise", help="Image i of every prompt starts from the same noise.")]
Size = Annotated[int | None, typer.Option(min=1, help="Pixels a side; default: the model's.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the weights.")]
Device = Annotated[str | None, typer.Option(help="Default: cuda where there is one.")]
Partial = Annotated[bool, typer.Option("--partial", help="Give overall scores although images are missing.")]


def _finish(result: "Result", partial: bool) -> None:
    """Prints the table; an incomplete result that nobody asked for is a failure."""
    from rich.console import Console

    # Narrower, the table's numbers would be cut off.
    Console(width=max(Console().width, 110)).print(result.table())
    if not result.complete and not partial:
        raise typer.Exit(1)


@app.command()
def scenes(
    action: Action = "both",
    pipeline: Pipeline = None,
    out: Out = Path("evaluation/scenes"),
    images: Images = None,
    skills: Annotated[str | None, typer.Option(help="Only these, joined by commas; default: all fifteen.")] = None,
    held_out: Annotated[bool, typer.Option("--held-out/--all", help="Only combinations never trained on.")] = False,
    images_per_prompt: ImagesPerPrompt = 4,
    steps: Steps = 30,
    guidance: Guidance = 4.0,
    seed: Seed = 42,
    same_noise: SameNoise = False,
    size: Size = None,
    batch_size: BatchSize = 64,
    dtype: Dtype = "float32",
    device: Device = None,
    partial: Partial = False,
) -> None:
    """Coloured shapes: 600 prompts of fifteen skills, half of them combinations never trained on."""
    from ..evaluation import scenes as benchmark
    from ..evaluation.sampling import Sampler, is_main_process

    named = [skill.strip() for skill in skills.split(",")] if skills else []
    prompts = benchmark.choose_prompts(named, "held-out" if held_out else "all")
    if action != "score":
        sampler = Sampler(
            pipeline, steps, guidance, images_per_prompt, seed, same_noise, size, None, batch_size, dtype, device
        )
        benchmark.sample(prompts, sampler, out)
    if action != "sample" and is_main_process():
        _finish(benchmark.score(prompts, out, images, images_per_prompt, partial), partial)
