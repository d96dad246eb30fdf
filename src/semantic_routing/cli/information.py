"""`sroute evaluate information`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Device, Dtype


def command(
    pipeline: Annotated[str, typer.Option(help="Pipeline folder or hub name; demo is the demo model.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder for results and curves.")] = Path("evaluation/information"),
    data: Annotated[
        Path | None,
        typer.Option(help="JSON or JSONL of {image, text}, perhaps with skill and edits; default: scenes."),
    ] = None,
    skills: Annotated[
        str | None,
        typer.Option(help="Of scenes, joined by commas; default: those of the training, where known."),
    ] = None,
    split: Annotated[
        Literal["train", "unseen", "held-out"],
        typer.Option(help="Of scenes; training has captions of train alone."),
    ] = "unseen",
    examples: Annotated[int, typer.Option(min=2, help="Pictures a skill.")] = 256,
    unconditional: Annotated[
        bool, typer.Option("--information/--no-information", help="What captions tell, against no caption at all.")
    ] = True,
    edited: Annotated[
        bool, typer.Option("--heard/--no-heard", help="What tells captions from minimal edits; of scenes.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise, which is the same for every model.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only print estimates beside exact values, on captions of one object.")
    ] = False,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Nats that captions are worth to a model, from its denoising errors: no judge, no sampling, no detector."""
    if exact:
        from ..evaluation.exact_check import check

        check(pipeline, examples, seed, device).print()
        return
    from ..evaluation.information_run import InformationOptions, run

    named = tuple(skill.strip() for skill in skills.split(",")) if skills else ()
    options = InformationOptions(data, named, split, examples, unconditional, edited, seed, batch_size, dtype, device)
    run(pipeline, options, out).table().print()
