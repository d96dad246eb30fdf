"""`sroute pack`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Overrides


def command(
    data: Annotated[
        str,
        typer.Argument(
            help="JSON or JSONL file, Parquet files, folder of tar shards; or a config or preset, for its source."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write. An interrupted one is continued.")],
    overrides: Overrides = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="How many to pack. Default: all; an endless source must be told.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Examples a shard.")] = 1000,
    max_broken: Annotated[
        float, typer.Option(min=0, max=1, help="Stop when more than this share of examples is broken.")
    ] = 0.01,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes that read; 0 reads in the main process.")] = 0,
) -> None:
    """Write images and captions as tar shards (WebDataset), which training reads one after another.

    When it is interrupted, run it again to continue. Processes that torchrun starts share the work.
    """
    from ..data.pack import pack, source_of
    from ..training.config import load_config

    source, image_size, seed = source_of(data), 1, 0
    if source is None:
        config = load_config(data, overrides or [])
        source, image_size, seed = config.data.source, config.data.image_size, config.training.seed
    elif overrides:
        raise ValueError(f"{data} is data and no config, so {overrides[0]} changes nothing.")
    report = pack(source, out, image_size, seed, examples, shard_size, max_broken, workers)
    typer.echo(f"Packed {report.examples - len(report.broken)} of {report.examples} examples into {out}.")
    typer.echo(f'To train on them: "data.source={{source: webdataset, path: {out}}}"')
