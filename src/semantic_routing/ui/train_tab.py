"""The tab Train: a live view of a run's folder. It reads `metrics.jsonl` and starts nothing."""

import statistics
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import gradio as gr
import pandas as pd
import yaml

from ..io.files import CONFIG, METRICS, JsonObject
from ..io.images import read_image
from ..io.jsonl import read_lines
from ..reporting.table import Table
from .forms import sentences
from .html import Row, Shown, paragraph, rows_of_pictures, table

RECENT = 50
"""Lines of metrics over which loss and speed are told."""
MOST_POINTS = 400
EVERY_SECONDS = 5
CURVES = {"loss": "Loss", "fusion_travel": "Travel of the fusion's parameters", "images_per_second": "Images a second"}
NO_RUN = "There is no run here yet: a run is a folder with metrics.jsonl below {folder}."


class View(NamedTuple):
    """A run as it is now.

    Args:
        summary: where it is, how fast, and how long it still takes.
        curves: a frame of `step` and `value` for each of `CURVES`.
        sample: the newest sheet of sample images; None where there is none.
    """

    summary: Table
    curves: dict[str, pd.DataFrame]
    sample: Shown | None


def find_runs(folder: Path) -> list[str]:
    """The runs below a folder, the one that wrote last first, by their paths from there."""
    found = sorted(folder.rglob(METRICS), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.relative_to(folder).as_posix() for path in found]


def read_run(folder: Path, name: str) -> View:
    """Reads the run called `name` below `folder`.

    Raises:
        ValueError: there is no such run.
    """
    if name not in find_runs(folder):
        raise ValueError(f"There is no run {name!r} below {folder}.")
    run = folder / name
    lines = read_lines(run / METRICS)
    values = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["training"]
    curves = {key: _curve(lines, key) for key in CURVES}
    return View(_summary(lines, values), curves, _newest_sample(run / "samples"))


def seconds_left(lines: list[JsonObject], steps: int, batch_size: int) -> float | None:
    """How long the remaining steps take at the pace of late; None where that is not known."""
    rates = [line["images_per_second"] for line in lines[-RECENT:] if line.get("images_per_second")]
    return (steps - lines[-1]["step"]) * batch_size / statistics.median(rates) if rates else None


def _summary(lines: list[JsonObject], training: JsonObject) -> Table:
    if not lines:
        return Table(["Step", "State"], [["0", "no metrics yet"]])
    recent = lines[-RECENT:]
    left = seconds_left(lines, training["steps"], training["batch_size"])
    rates = [line["images_per_second"] for line in recent if line.get("images_per_second")]
    cells = {
        "Step": f"{lines[-1]['step']:,} of {training['steps']:,}",
        "Loss": f"{statistics.fmean(line['loss'] for line in recent):.4f}",
        "Images a second": f"{statistics.median(rates):.1f}" if rates else "not known",
        "Time left": str(timedelta(seconds=int(left))) if left is not None else "not known",
    }
    return Table(list(cells), [list(cells.values())], f"Loss and speed over the last {len(recent)} lines of {METRICS}.")


def _curve(lines: list[JsonObject], key: str) -> pd.DataFrame:
    """Means of neighboring lines, at most `MOST_POINTS` of them."""
    frame = pd.DataFrame([(line["step"], line[key]) for line in lines if key in line], columns=["step", "value"])
    return frame.groupby(frame.index // -(-max(len(frame), 1) // MOST_POINTS)).mean()


def _newest_sample(folder: Path) -> Shown | None:
    paths = sorted(folder.glob("step-*.png"))
    if not paths:
        return None
    step = int(paths[-1].stem.removeprefix("step-"))
    return Shown(read_image(paths[-1]), f"sample images after {step} steps", f"after {step:,} steps")


def add(folder: Path) -> None:
    """Puts the tab's parts into the page."""
    runs = find_runs(folder)
    nothing = paragraph(NO_RUN.format(folder=folder))
    with gr.Row(equal_height=False):
        run = gr.Dropdown(runs, value=runs[0] if runs else None, label=f"Run below {folder}", scale=3)
        live = gr.Checkbox(True, label=f"Read again every {EVERY_SECONDS} seconds", scale=1)
        find = gr.Button("Look for runs", scale=1)
    summary = gr.HTML(nothing, elem_id="run")
    with gr.Row():
        plots = [
            gr.LinePlot(x="step", y="value", title=title, y_title=" ", min_width=280, height=240)
            for title in CURVES.values()
        ]
    samples = gr.HTML(elem_id="samples")
    timer = gr.Timer(EVERY_SECONDS)

    @sentences
    def show(name: str | None) -> list[object]:
        if name is None:
            return [nothing, *(None for _ in plots), ""]
        view = read_run(folder, name)
        sample = "" if view.sample is None else rows_of_pictures([Row("Sample images", [view.sample])])
        return [table(view.summary), *view.curves.values(), sample]

    def look() -> gr.Dropdown:
        found = find_runs(folder)
        return gr.Dropdown(found, value=found[0] if found else None)

    outputs = [summary, *plots, samples]
    # Without triggers: when the page opens, and whenever another run is chosen.
    for triggers in (None, [timer.tick]):
        gr.on(triggers, show, run, outputs, api_visibility="private", show_progress="hidden")
    live.change(lambda on: gr.Timer(active=on), live, timer, api_visibility="private", show_progress="hidden")
    find.click(look, outputs=run, api_visibility="private")
