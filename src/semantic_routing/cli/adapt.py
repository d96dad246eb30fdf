"""`sroute adapt`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Overrides


def command(
    host: Annotated[str, typer.Argument(help="Pipeline of diffusers, by folder or hub name; see docs/hosts.md.")],
    data: Annotated[
        str, typer.Argument(help="JSON or JSONL file of captions, `scenes`, or a data set of Hugging Face.")
    ],
    out: Annotated[Path, typer.Argument(help="The run's folder; what was trained is in it at the end.")],
    overrides: Overrides = None,
    fusion: Annotated[str, typer.Option(help="Fusion strategy to put into the host; 'none' adds no fusion.")] = (
        "depth-wise"
    ),
    lora_rank: Annotated[int, typer.Option(min=0, help="Rank of LoRAs on the host's attention; 0 adds none.")] = 0,
    trained: Annotated[
        Literal["nothing", "text", "all"], typer.Option(help="Which of the host's own weights to train.")
    ] = "nothing",
    image_size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 16,
    resume: Annotated[
        str | None,
        typer.Option(help="'latest' or a checkpoint's folder: continue the run as if it had never been interrupted."),
    ] = None,
) -> None:
    """Train a fusion in another project's model.

    Changes to the config come after OUT, such as optimizer.fusion_learning_rate=3e-3 data.source.text_key=caption.
    """
    from ..training import adapt, adapt_config

    own = [
        f"host.fusion={'null' if fusion == 'none' else fusion}",
        f"host.lora_rank={lora_rank}",
        f"host.trained={trained}",
        f"data.image_size={image_size}",
        f"training.steps={steps}",
        f"training.batch_size={batch_size}",
    ]
    config = adapt_config(host, data, out, own + (overrides or []))
    typer.echo(f"Trained in {adapt(config, resume)}.")
