"""Runs analyses and writes their numbers, their figures, and one page with all of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from ..io.files import write_text
from ..pipelines.saved import find_pipeline
from ..reporting.arrays import write_arrays
from ..reporting.figures import save, style
from ..reporting.page import Page
from ..reporting.table import Table
from .base import Analysis, AnalysisOptions, Subject, on_time
from .registry import choose
from .trajectory import TrajectoryAnalysis, measured_map

# A screen is read from further away than paper.
SCREEN = 1.3


def analyze(
    pipeline: str | None,
    out: Path,
    only: Sequence[str] = (),
    options: AnalysisOptions | None = None,
    save_map: Literal["paired", "marginal"] | None = None,
) -> Path:
    """Writes `index.html`, and a folder with CSV, JSON, PNG and SVG files for each analysis; returns the page's path.

    Args:
        pipeline: folder or hub name; None is the demo model.
        out: folder for all of it.
        only: names of analyses; none means all that apply to the model's strategy.
        options: what can be chosen.
        save_map: save the measured effective time with the pipeline, as its timestep map.

    Raises:
        ValueError: an unknown analysis, one that does not apply, or a pipeline that cannot be read or written.
    """
    subject = Subject(find_pipeline(pipeline), options)
    analyses, skipped = choose(list(only), subject.strategy)
    if save_map and not on_time(subject.strategy):
        raise ValueError(f"A timestep map needs a gate that sees the time; the strategy here is {subject.strategy}.")
    if save_map and not Path(pipeline or subject.files.folder).is_dir():
        raise ValueError(f"A timestep map can be saved with a pipeline's folder only, and {pipeline!r} is none.")
    out.mkdir(parents=True, exist_ok=True)
    page = Page(f"Inside {Path(pipeline or 'the demo model').name}")
    page.text(describe_model(subject))
    for analysis in track(analyses, "analyzing", console=Console(stderr=True)):
        write_analysis(analysis, subject, out / analysis.name, page)
    if skipped:
        page.heading("Left out")
        for sentence in skipped:
            page.text(sentence)
    if save_map:
        page.text(save_timestep_map(subject, save_map))
    return page.write(out / "index.html")


def write_analysis(analysis: Analysis, subject: Subject, folder: Path, page: Page) -> None:
    """Computes, writes files, and adds a section to the page."""
    arrays = subject.result(analysis)
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(arrays, folder, analysis.name)
    page.heading(analysis.title)
    for text in analysis.describe(arrays, subject):
        page.text(text)
    for table in analysis.tables(arrays, subject):
        page.table(Table(table.header, table.rows, table.caption))
    with style():
        for drawing in analysis.draw(arrays, subject):
            page.image(save(drawing, folder)[0], drawing.caption, inches=SCREEN * drawing.figure.get_figwidth())


def describe_model(subject: Subject) -> str:
    """A sentence on the model, from its configuration alone."""
    config = subject.files.transformer
    return (
        f"Strategy {subject.strategy}; {config['num_blocks']} DiT blocks; {config['num_text_layers']} language-model "
        "layers. Layers are numbered from 1, the first layer's output; blocks from 0. Flow time t is 0 at noise and 1 "
        "at data. Numbers (CSV, JSON) and figures (PNG, SVG) lie in a folder an analysis beside this page."
    )


def save_timestep_map(subject: Subject, method: str) -> str:
    """Puts the measured map into the pipeline's `model_index.json`, and says so."""
    times = subject.result(TrajectoryAnalysis())["effective_time"]
    measured = measured_map(times, subject.options.guidance, method)
    path = subject.files.folder / "model_index.json"
    index = {**subject.files.model_index, "timestep_map": [list(point) for point in measured.points]}
    write_text(path, json.dumps(index, indent=2, sort_keys=True) + "\n")
    return (
        f"The {method} effective time at guidance {subject.options.guidance:g} was saved with the pipeline: from now "
        "on its gate sees that time in sampling."
    )
