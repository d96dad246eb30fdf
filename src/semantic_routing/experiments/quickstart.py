"""The first ten minutes: train a small routed model, sample from it and from the demo model, and look inside."""

import shutil
from pathlib import Path

from matplotlib.figure import Figure

from ..analysis.weights import draw_weights
from ..io.files import METRICS, write_text
from ..io.jsonl import read_lines
from ..io.resources import DEMO
from ..pipelines.generate import generate_files
from ..reporting.figures import OKABE_ITO
from ..reporting.page import Page
from ..training import train
from ..training.checkpoint import list_checkpoints
from ..training.config import ValidationConfig, load_config
from ..training.export import export_pipeline

PRESET = "scenes/quickstart"
IMAGES_PER_PROMPT = 4
MARK = ".made-by-sroute-quickstart"


def quickstart(out: Path, minutes: float) -> Path:
    """Trains for at most `minutes`, continuing an earlier quickstart in `out`, and writes `index.html` there.

    Args:
        out: folder; folders within it are replaced.
        minutes: of training.

    Returns:
        The page's path.

    Raises:
        ValueError: `out` has content that no quickstart made.
    """
    _claim(out)
    run = out / "run"
    config = load_config(PRESET, [f"training.output={run}", f"training.max_minutes={minutes}"])
    checkpoint = train(config, "latest" if list_checkpoints(run) else None)
    trained = out / "pipeline"
    shutil.rmtree(trained, ignore_errors=True)
    export_pipeline(checkpoint, trained, with_text_encoder=False)

    page = Page("Semantic routing: quickstart")
    page.text(
        "A diffusion transformer was trained on this machine to draw scenes from sentences. Each of its blocks reads "
        "all layers of the language model MiniLM and learns which of them to listen to."
    )
    validation = config.validation
    steps = read_lines(run / METRICS)[-1]["step"]
    mine = _sample(validation, str(trained), out / "trained")
    demo = _sample(validation, DEMO, out / "demo")
    page.heading("Pictures")
    page.gallery(
        ["prompt", f"your model, after {steps} steps", "the demo model, from the same noise"],
        {prompt: [mine[row], demo[row]] for row, prompt in enumerate(validation.prompts)},
        width=64,
    )
    page.heading("Which layers each block listens to")
    page.text("Training starts from equal weights.")
    page.image(draw_weights(str(trained), out / "trained")[0], "Fusion weights of your model.")
    page.image(draw_weights(DEMO, out / "demo")[0], "Fusion weights of the demo model.")
    page.heading("Training")
    page.image(_draw_loss(run, out / "loss.png"), "Flow-matching loss against optimizer steps.")
    page.heading("Next")
    page.code(
        f'sroute generate "a red circle above a blue star"\n'
        f'sroute generate "a red circle above a blue star" --pipeline {trained}\n'
        "sroute train scenes/joint --dry-run"
    )
    return page.write(out / "index.html")


def _claim(out: Path) -> None:
    """Marks a new or empty folder as the quickstart's own: in any other one nothing is replaced."""
    mark = out / MARK
    if mark.is_file():
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"The folder {out} has content that sroute quickstart did not make; name a new folder.")
    write_text(mark, "sroute quickstart replaces folders in here.\n")


def _sample(options: ValidationConfig, pipeline: str, folder: Path) -> list[list[Path]]:
    """The pictures of each prompt."""
    shutil.rmtree(folder, ignore_errors=True)
    paths = generate_files(
        options.prompts,
        folder,
        pipeline,
        images_per_prompt=IMAGES_PER_PROMPT,
        steps=options.num_inference_steps,
        guidance=options.guidance_scale,
    )
    return [paths[start : start + IMAGES_PER_PROMPT] for start in range(0, len(paths), IMAGES_PER_PROMPT)]


def _draw_loss(run: Path, path: Path) -> Path:
    """The training curve."""
    lines = read_lines(run / METRICS)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=OKABE_ITO[0], linewidth=1)
    axes.set(xlabel="optimizer steps", ylabel="loss", yscale="log")
    figure.savefig(path, dpi=150)
    return path
