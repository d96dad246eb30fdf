"""`sroute ablate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import ConfigName, Overrides


def command(
    config: ConfigName,
    overrides: Overrides = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Strategies or config files, joined by commas, the baseline first. Default: the paper's six and the "
            "config's own."
        ),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(help="Strategy whose difference from the baseline is the primary contrast; default: depth-wise."),
    ] = None,
    match: Annotated[
        Literal["parameters"] | None,
        typer.Option(
            help="parameters: widen what blocks read of the text (model.context_channels) until every strategy has as "
            "many parameters as the largest."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings, joined by commas.")] = "0,1,2",
    out: Annotated[Path, typer.Option(help="Folder; a second run goes on from what is there.")] = Path("runs/ablation"),
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 1,
    prompts_per_half: Annotated[
        int, typer.Option(min=1, max=20, help="Prompts of each half of a skill; 20 is all.")
    ] = 20,
    skills: Annotated[str, typer.Option(help="Skills of the Scenes benchmark, joined by commas; default: all.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Euler steps of sampling.")] = 30,
    guidance: Annotated[
        str,
        typer.Option(
            help="Classifier-free guidance scale. Of several scales, joined by commas, each model uses the one that "
            "scores best on a separate list of prompts."
        ),
    ] = "2",
    batch_size: Annotated[int, typer.Option(min=1, help="Images sampled at a time.")] = 64,
    information: Annotated[
        int, typer.Option(min=0, help="Pictures of each trained skill to measure the cost of in nats; 0 measures none.")
    ] = 0,
    scores: Annotated[bool, typer.Option("--scores/--no-scores", help="Sample and score images.")] = True,
    text_pool: Annotated[
        Path | None, typer.Option(help="Folder that keeps features of all prompts and captions.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trainings at a time; default: one per device.")] = None,
) -> None:
    """Train, sample and score every strategy with every seed on scenes, and write the paper's tables as one page."""
    from ..experiments.ablation import AblationOptions, default_strategies, make_trials, primary_of, run_ablation
    from ..experiments.ablation_cost import match_parameters
    from ..experiments.ablation_page import write_ablation

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise ValueError(f"Seeds must be whole numbers joined by commas, not {seeds!r}.") from error
    if not scores and not information:
        raise ValueError("An ablation measures scores or information; --no-scores needs --information.")
    options = AblationOptions(
        images_per_prompt=images_per_prompt,
        prompts_per_half=prompts_per_half,
        steps=steps,
        guidance=_scales(guidance),
        batch_size=batch_size,
        skills=tuple(_names(skills)),
        information=information,
        scores=scores,
        text_pool=text_pool,
        primary=primary,
    )
    options.benchmark()  # refuses an unknown skill before any work
    changes = overrides or []
    names = _names(strategies or "") or default_strategies(config, changes)
    trials = make_trials(config, changes, names, numbers, out, match_parameters if match else None)
    primary_of(list(dict.fromkeys(trial.label for trial in trials)), options)
    run_ablation(trials, options, jobs)
    typer.echo(f"Open {write_ablation(trials, options, out).resolve().as_uri()}")


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(scale) for scale in _names(text))
    except ValueError as error:
        raise ValueError(f"Scales of guidance must be numbers joined by commas, not {text!r}.") from error
    if not scales or not all(0 <= scale < float("inf") for scale in scales):
        raise ValueError(f"A scale of guidance must be a number of at least 0, not {text!r}.")
    return scales


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
