"""`sroute card`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline's folder.")],
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Outcome of sroute evaluate, to keep in the pipeline's scores.md. Can be repeated."
        ),
    ] = None,
) -> None:
    """Write a pipeline's model card, README.md, again: with scores, or after a change.

    A README.md of your own is not replaced.
    """
    from ..evaluation.result import read_result
    from ..io.files import write_text
    from ..pipelines.card import CARD, SCORES, write_card

    results = [read_result(folder) for folder in scores or ()]
    if write_card(pipeline) is None:
        raise ValueError(f"{pipeline / CARD} is your own and was not replaced; move it away to have a card written.")
    if results:
        write_text(pipeline / SCORES, "\n".join(f"### {result.benchmark}\n\n{result.markdown()}" for result in results))
        write_card(pipeline)
    typer.echo(f"Wrote {pipeline / CARD}")
