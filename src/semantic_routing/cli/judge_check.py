"""`sroute evaluate judge-check`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    judge_model: Annotated[
        str, typer.Option(help="The judge's name at the endpoint; without an endpoint, a folder or hub name.")
    ],
    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")
    ] = None,
    judge_revision: Annotated[str | None, typer.Option(help="The judge's revision.")] = None,
    judge_key: Annotated[
        str | None, typer.Option(envvar="JUDGE_API_KEY", help="Key of the endpoint, sent as a bearer token.")
    ] = None,
    judge_type: Annotated[str | None, typer.Option(help="endpoint, local, or a registered judge.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 32,
    per_skill: Annotated[int, typer.Option(min=2, help="Statements about pictures of each skill.")] = 32,
    out: Annotated[Path, typer.Option(help="Folder for pictures, answers and result.")] = Path(
        "evaluation/judge-check"
    ),
) -> None:
    """Measure how often a vision-language judge is right about pictures of scenes with known answers, by skill."""
    from ..evaluation.judge_check import JudgeCheck, score_check
    from ..evaluation.judges import JudgeOptions

    options = JudgeOptions(
        judge_type,
        [judge_model],
        [judge_url] if judge_url else None,
        [judge_revision] if judge_revision else None,
        judge_key,
        workers=workers,
    )
    result = score_check(JudgeCheck(options, per_skill), out)
    result.table().print()
    if not result.complete:
        raise typer.Exit(1)
