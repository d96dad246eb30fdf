"""`sroute evaluate`: a command for each registered benchmark, a user's own included."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard, TypeVar, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from . import information, judge_check

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from ..evaluation import Benchmark


Settings = TypeVar("Settings", bound="DataclassInstance")

OTHERS: dict[str, Callable[..., None]] = {"information": information.command, "judge-check": judge_check.command}


class BenchmarkCommands(TyperGroup):
    """Makes commands when they are asked for, so that a benchmark that was registered meanwhile has one.

    Those of `OTHERS` stand beside the benchmarks: they need no images to be sampled.
    """

    def list_commands(self, ctx: object) -> list[str]:
        """The benchmarks' names, and the others."""
        from ..evaluation import BENCHMARKS

        return [*BENCHMARKS, *OTHERS]

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | None:
        """The command of that name, None where there is none."""
        from ..evaluation import BENCHMARKS

        if cmd_name in OTHERS:
            return _command(cmd_name, OTHERS[cmd_name])
        return make_command(cmd_name, BENCHMARKS[cmd_name]) if cmd_name in BENCHMARKS else None


app = typer.Typer(
    cls=BenchmarkCommands,
    no_args_is_help=True,
    help="Sample and score a benchmark, with 95 % intervals for every score.",
)


def make_command(name: str, benchmark: "type[Benchmark]") -> TyperCommand:
    """The command of a benchmark: its constructor's options, those of sampling, and those of every benchmark."""

    def run(
        action: Annotated[Literal["sample", "score", "both"], typer.Argument(help="What to do.")] = "both",
        out: Annotated[
            Path, typer.Option(help="Folder for images and results; a second run goes on from what is there.")
        ] = Path("evaluation") / name,
        images: Annotated[Path | None, typer.Option(help="Score these images; default: those in --out.")] = None,
        partial: Annotated[
            bool, typer.Option("--partial", help="Give overall scores although images are missing.")
        ] = False,
        **options: Any,
    ) -> None:
        evaluate(benchmark, options, action, out, images, partial)

    shared = [parameter for parameter in inspect.signature(run).parameters.values() if parameter.name != "options"]
    parameters = [*_own_options(benchmark), *_fields(benchmark.sampler), *shared]
    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = (inspect.getdoc(benchmark) or name).partition("\n")[0]
    return _command(name, run)


def _command(name: str, run: Callable[..., None]) -> TyperCommand:
    single = typer.Typer(add_completion=False)
    single.command(name)(run)
    command = typer.main.get_command(single)
    assert isinstance(command, TyperCommand)
    return command


def evaluate(
    benchmark: "type[Benchmark]", options: dict[str, Any], action: str, out: Path, images: Path | None, partial: bool
) -> None:
    """Samples, scores, or both; an incomplete result that nobody asked for is a failure."""
    from ..evaluation import QuestionBenchmark
    from ..evaluation.agreement import score_by_all
    from ..evaluation.runner import sample, score
    from ..evaluation.sampling import is_main_process
    from ..evaluation.sharing import judge_share

    chosen = benchmark(**_choose(benchmark, options))
    if action != "sample":
        chosen.check_judge(ask=action == "both")
    if action != "score":
        sample(chosen, _change(benchmark.sampler, options), out)
    if action == "sample":
        return
    judge_share(chosen, out, images, options["images_per_prompt"])
    if is_main_process():
        arguments = (out, images, options["images_per_prompt"], partial)
        if isinstance(chosen, QuestionBenchmark):
            results = score_by_all(chosen, *arguments)
        else:
            results = [score(chosen, *arguments)]
        for result in results:
            result.table().print()
        if not partial and not all(result.complete for result in results):
            raise typer.Exit(1)


def _own_options(benchmark: "type[Benchmark]") -> Iterator[Parameter]:
    """Options of a constructor; a parameter whose default is a dataclass stands for the options among its fields."""
    hints = get_type_hints(benchmark.__init__, include_extras=True)
    for parameter in inspect.signature(benchmark).parameters.values():
        if _is_settings(parameter.default):
            yield from _fields(parameter.default)
        elif get_origin(hints[parameter.name]) is Annotated:
            yield parameter.replace(annotation=hints[parameter.name])


def _is_settings(value: object) -> TypeGuard["DataclassInstance"]:
    return is_dataclass(value) and not isinstance(value, type)


def _fields(values: "DataclassInstance") -> Iterator[Parameter]:
    """The options among a dataclass's fields, with the values of an instance as defaults."""
    hints = get_type_hints(type(values), include_extras=True)
    for name in (field.name for field in fields(values)):
        if get_origin(hints[name]) is Annotated:
            yield Parameter(name, Parameter.KEYWORD_ONLY, default=getattr(values, name), annotation=hints[name])


def _choose(benchmark: "type[Benchmark]", options: Mapping[str, object]) -> dict[str, Any]:
    """A constructor's arguments, of all options."""
    chosen: dict[str, object] = {}
    for name, parameter in inspect.signature(benchmark).parameters.items():
        if _is_settings(parameter.default):
            chosen[name] = _change(parameter.default, options)
        elif name in options:
            chosen[name] = options[name]
    return chosen


def _change(values: Settings, options: Mapping[str, object]) -> Settings:
    """A dataclass with those of its fields changed that are among the options."""
    names = [field.name for field in fields(values) if field.name in options]
    return replace(values, **{name: options[name] for name in names})
