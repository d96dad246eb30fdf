"""Runs analyses and writes their numbers, their figures, and one page with all of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from ..io.files import write_text
from ..reporting.arrays import write_arrays
from ..reporting.figures import SCREEN, WIDTH, save, style
from ..reporting.page import Page
from .base import Analysis, choose
from .model import AnalysisOptions, SavedModel, open_model
from .trajectory import measured_map


def analyze(
    pipeline: str,
    out: Path,
    only: Sequence[str] = (),
    options: AnalysisOptions | None = None,
    save_map: Literal["paired", "marginal"] | None = None,
    routing: Path | None = None,
    host_size: int | None = None,
    host_options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `index.html`, and a folder with CSV, JSON, PNG and SVG files for each analysis; returns the page's path.

    Args:
        pipeline: folder, hub name or "demo".
        out: folder for all of it.
        only: names of analyses; none means all that apply to the model.
        options: what can be chosen.
        save_map: save the measured effective time with the pipeline, as its timestep map.
        routing: folder of a fusion; the pipeline is then the host's that it was trained in.
        host_size: of a host: pixels a side; None is as it was trained.
        host_options: of a host: more arguments of its call; None is as it was trained.

    Raises:
        ValueError: an unknown analysis, one that does not apply, or a pipeline that cannot be read or written.
    """
    model = open_model(pipeline, options, routing, host_size, host_options)
    analyses, left_out = choose(only, model)
    if save_map and "timestep" not in model.varies_with:
        raise ValueError(f"A timestep map needs a fusion that sees the time; this model {model.fusion_sentence}.")
    if save_map and not Path(pipeline).is_dir():
        raise ValueError(f"A timestep map can be saved with a pipeline's folder only, and {pipeline!r} is none.")
    out.mkdir(parents=True, exist_ok=True)
    page = Page(f"Inside {'the demo model' if pipeline == 'demo' else Path(pipeline).name}")
    page.text(describe_model(model))
    if any(analysis.samples for analysis in analyses.values()):
        page.text(describe_prompts(model))
    for name, analysis in track(analyses.items(), "analyzing", console=Console(stderr=True)):
        write_analysis(name, analysis, model, out / name, page)
    if left_out:
        page.heading("Left out")
        for sentence in left_out:
            page.text(sentence)
    if save_map:
        page.text(save_timestep_map(model, save_map))
    return page.write(out / "index.html")


def write_analysis(name: str, analysis: Analysis, model: SavedModel, folder: Path, page: Page) -> None:
    """Computes, writes files, and adds a section to the page."""
    arrays = model.result(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(arrays, folder, name)
    page.heading(analysis.title)
    for text in analysis.describe(arrays, model):
        page.text(text)
    for table in analysis.tables(arrays, model):
        page.table(table)
    with style():
        for figure in analysis.draw(arrays, model):
            page.image(save(figure, folder)[0], figure.caption, inches=SCREEN * WIDTH)


def describe_model(model: SavedModel) -> str:
    """Sentences on the model, from its configuration and its fusion."""
    config = model.files.transformer
    return (
        f"The model {model.fusion_sentence}. It has {config['num_blocks']} DiT blocks and reads "
        f"{config['num_text_layers']} language-model layers. Layers are numbered from 1, the first layer's output; "
        "blocks from 0. Flow time t is 0 at noise and 1 at data. Numbers (CSV, JSON) and figures (PNG, SVG) lie beside "
        "this page, in a folder for each analysis."
    )


def describe_prompts(model: SavedModel) -> str:
    """What is sampled, and whether the model was ever trained on it."""
    how = f"in {model.steps} steps at guidance {model.guidance:g}"
    if model.scene_prompts is None:
        return f"Samples are of the {len(model.prompts)} given prompts, {how}. They are not judged."
    skills = list(dict.fromkeys(prompt.skill for prompt in model.scene_prompts))
    what = f"Samples are of {len(model.prompts)} scenes, {how}, from the skills {', '.join(skills)}."
    trained = model.trained_skills
    if trained is None:
        return (
            f"{what} The pipeline's folder does not say what it was trained on. If it never saw these skills, shares "
            "of correct images say nothing about its fusion."
        )
    unseen = [skill for skill in skills if skill not in trained]
    if not unseen:
        return f"{what} It was trained on these skills."
    return f"{what} It was never trained on {', '.join(unseen)}: their images are mostly wrong, whatever the fusion."


def save_timestep_map(model: SavedModel, method: str) -> str:
    """Puts the measured map into the pipeline's `model_index.json`, and says so."""
    measured = measured_map(model.result("trajectory")["effective_time"], model.guidance, method)
    path = model.files.folder / "model_index.json"
    index = {**model.files.model_index, "timestep_map": [list(point) for point in measured.points]}
    write_text(path, json.dumps(index, indent=2, sort_keys=True) + "\n")
    return (
        f"The {method} effective time at guidance {model.guidance:g} was saved with the pipeline: from now on its "
        "fusion sees that time in sampling."
    )
