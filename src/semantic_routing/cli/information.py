"""`sroute evaluate information`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Device, Dtype, HostOptions, HostSize, Routing, read_host_options


def command(
    pipeline: Annotated[str, typer.Option(help="Pipeline folder or hub name; demo is the demo model.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder for results and curves.")] = Path("evaluation/information"),
    data: Annotated[
        Path | None,
        typer.Option(help="JSON or JSONL of {image, text}, perhaps with skill and edits; default: scenes."),
    ] = None,
    skills: Annotated[
        str | None,
        typer.Option(help="Skills of scenes, joined by commas; default: those of the training, where known."),
    ] = None,
    split: Annotated[
        Literal["train", "unseen", "held-out"],
        typer.Option(help="Which captions of scenes; training saw those of train alone."),
    ] = "unseen",
    examples: Annotated[int, typer.Option(min=2, help="Pictures of each skill.")] = 256,
    unconditional: Annotated[
        bool, typer.Option("--information/--no-information", help="Compare captions with no caption.")
    ] = True,
    edited: Annotated[
        bool, typer.Option("--heard/--no-heard", help="Compare captions with minimal false edits.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise, which is the same for every model.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only print estimates beside exact values, for captions of one object.")
    ] = False,
    routing: Routing = None,
    host_size: HostSize = None,
    host_options: HostOptions = None,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Measure, in nats, what captions tell a model. Needs denoising errors alone: no sampling, judge or detector."""
    if exact:
        from ..evaluation.exact_check import check

        check(pipeline, examples, seed, device).print()
        return
    from ..evaluation.information_run import InformationOptions, run

    named = tuple(skill.strip() for skill in skills.split(",")) if skills else ()
    options = InformationOptions(
        data, named, split, examples, unconditional, edited, seed, batch_size, dtype, device,
        routing=routing, host_size=host_size, host_options=read_host_options(host_options),
    )  # fmt: skip
    run(pipeline, options, out).table().print()
