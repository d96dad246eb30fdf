"""The benchmark `information`: how many nats a pipeline's text is worth to it, by skill and by band of noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from ..adapters import find_routing
from ..adapters.run import HostRun
from ..io.files import JsonObject, sha256
from ..io.jsonl import write_lines
from ..io.tensors import weights_digest
from ..pipelines import SemanticRoutingPipeline
from ..pipelines.host import open_host
from ..pipelines.loading import load_pipeline
from ..pipelines.saved import find_pipeline, is_host, trained_skills
from ..reporting.arrays import NamedArray
from ..reporting.figures import DASHES, OKABE_ITO, Figure, panels, save, style
from ..scenes import SKILLS
from .captioned import CaptionedPicture, folder_pictures, scene_pictures
from .information import (
    BANDS,
    HEARD_BAND,
    LOG_SNR,
    NO_CAPTION,
    VERSION,
    Subject,
    generator_of,
    integrate,
    nats_per_log_snr,
    pipeline_denoiser,
    squared_errors,
)
from .information_host import host_denoiser
from .result import OVERALL, Measure, Result, Tally, summarize

COST, INFORMATION, HEARD = "cost", "information", "heard"
UNIT = (
    "Nats. cost: what the caption leaves to be found out, the lower the better; information: what the caption tells "
    f"more than none does, log γ from {LOG_SNR[0]:g} to {LOG_SNR[-1]:g}; heard: how much more a false caption costs, "
    f"from {HEARD_BAND[0]:g} to {HEARD_BAND[1]:g}."
)

Curve = NDArray[np.float64]
"""Nats per unit of log γ at the grid's points."""


@dataclass(frozen=True)
class InformationOptions:
    """What can be chosen.

    Args:
        data: JSON or JSONL of pictures, see `folder_pictures`; None is scenes.
        skills: of scenes; none are those of the training, or all where its pipeline does not say.
        split: of scenes, see `sample_scene`.
        examples: pictures a skill.
        unconditional: denoise without a caption, too, which information needs.
        edited: denoise scenes with false captions, too, which heard needs.
        seed: of the noise.
        batch_size: pictures at a time.
        dtype: of the weights.
        device: None is cuda where there is one.
        text_pool: folder that keeps features of the captions, for pipelines that read the same; None keeps none.
        routing: of a host: the folder of a fusion that is put into it.
        host_size: of a host: pixels a side; None is what its training or its configuration says.
        host_options: of a host: more arguments of its call; None is what its training says.
    """

    data: Path | None = None
    skills: tuple[str, ...] = ()
    split: str = "unseen"
    examples: int = 256
    unconditional: bool = True
    edited: bool = True
    seed: int = 0
    batch_size: int = 32
    dtype: str = "float32"
    device: str | None = None
    text_pool: Path | None = None
    routing: Path | None = None
    host_size: int | None = None
    host_options: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Measured:
    """A picture and its curves by quantity; "heard" is the mean over its edits, "heard: color" one of them."""

    picture: CaptionedPicture
    curves: dict[str, Curve]

    def line(self) -> JsonObject:
        """As written in `results.jsonl`."""
        curves = {name: [round(float(value), 6) for value in curve] for name, curve in self.curves.items()}
        picture = self.picture
        edits = {"edits": dict(picture.edits)} if picture.edits else {}
        return {"name": picture.name, "skill": picture.skill, "caption": picture.caption, **edits, "curves": curves}

    def values(self) -> dict[str, float]:
        """Sums of all curves, whole and by band, by key."""
        found = {}
        for quantity, curve in self.curves.items():
            whole = HEARD_BAND if quantity.startswith(HEARD) else None
            for band in (None, *BANDS):
                found[key_of(self.picture, quantity, band)] = float(integrate(curve, LOG_SNR, band or whole))
        return found


def measure(
    pipeline: SemanticRoutingPipeline | HostRun,
    pictures: Sequence[CaptionedPicture],
    unconditional: bool = True,
    seed: int = 0,
    batch_size: int = 32,
) -> Iterator[Measured]:
    """Curves of all pictures, in their order.

    Args:
        pipeline: any of ours, or a host.
        pictures: with their captions.
        unconditional: denoise without a caption, too, which information needs.
        seed: of the noise.
        batch_size: pictures at a time; each is denoised once a caption.
    """
    denoiser = host_denoiser(pipeline) if isinstance(pipeline, HostRun) else pipeline_denoiser(pipeline)
    batches = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
    for batch in track(batches, "measuring", console=Console(stderr=True)):
        subjects = as_subjects(pipeline, batch, unconditional, seed)
        rows = iter(nats_per_log_snr(squared_errors(denoiser, subjects, seed)))
        for picture in batch:
            cost = next(rows)
            heard = {f"{HEARD}: {kind}": next(rows) - cost for kind in picture.edits}
            curves = {COST: cost, **heard}
            if heard:
                curves[HEARD] = np.mean(list(heard.values()), axis=0)
            if unconditional:
                curves[INFORMATION] = next(rows) - cost
            yield Measured(picture, curves)


def as_subjects(
    pipeline: SemanticRoutingPipeline | HostRun, pictures: Sequence[CaptionedPicture], unconditional: bool, seed: int
) -> list[Subject]:
    """Latents of pictures with their captions: the true one, false ones, and none where it is wanted."""
    codec, network = pipeline.codec, pipeline.model if isinstance(pipeline, HostRun) else pipeline.transformer
    nothing = [NO_CAPTION] if unconditional else []
    subjects = []
    for picture in pictures:
        latent = codec.encode(picture.pixels[None].to(network.device), [generator_of(seed, picture.name, "latent")])[0]
        subjects.append(Subject(picture.name, latent.cpu(), [picture.caption, *picture.edits.values(), *nothing]))
    return subjects


def run(pipeline: str, options: InformationOptions, out: Path) -> Result:
    """Measures a pipeline, and writes the result's files, `results.jsonl`, `curves.csv` and `curves.png` in `out`.

    Raises:
        ValueError: information is asked of a model without an unconditional branch, or there is nothing to measure.
    """
    opened = open_model(pipeline, options)
    loaded, tally = opened.model, Tally(expected=0)
    pictures, source = choose_pictures(opened.training_data, options, opened.size, tally)
    if options.text_pool is not None and isinstance(loaded, SemanticRoutingPipeline):
        captions = chain.from_iterable((picture.caption, *picture.edits.values()) for picture in pictures)
        loaded.use_text_pool(options.text_pool, list(dict.fromkeys(captions)))
    tally.expected = len(pictures) + sum(map(len, tally.problems.values()))
    found = []
    for measured in measure(loaded, pictures, options.unconditional, options.seed, options.batch_size):
        tally.add(measured.values())
        found.append(measured)
    space = f"{loaded.codec.channels} channels, {'pixels' if loaded.codec.vae is None else 'latents'}"
    settings = {"version": VERSION, "data": source, "seed": options.seed, "space": space, "dtype": options.dtype}
    settings["sampling"] = {"pipeline": pipeline, "weights": weights_digest(*opened.weights)}
    result = summarize("information", tally, measures(found), settings, UNIT, bounds=None)
    result.write(out)
    write_lines(out / "results.jsonl", (measured.line() for measured in found))
    curves = mean_curves(found)
    curves.write_csv(out / "curves.csv", "nats_per_log_snr")
    with style():
        save(draw(curves), out)
    return result


class Opened(NamedTuple):
    """What is measured, the modules that are in question, pixels a side, and what is known of its training's data."""

    model: SemanticRoutingPipeline | HostRun
    weights: tuple[nn.Module, ...]
    size: int
    training_data: JsonObject


def open_model(pipeline: str, options: InformationOptions) -> Opened:
    """A pipeline of ours, or a host and perhaps the fusion in it.

    Raises:
        ValueError: information is asked of a model without an unconditional branch.
    """
    routing = options.routing
    files = None if routing is None and is_host(pipeline) else find_pipeline(str(routing or pipeline))
    data = (files.training_data if files else None) or {}
    if options.unconditional and data.get("caption_dropout") == 0:
        raise ValueError(
            "The model was trained with data.caption_dropout 0 and so has no unconditional branch: information cannot "
            "be measured; --no-information gives cost and heard."
        )
    if files is not None and routing is None:
        loaded = load_pipeline(str(files.folder), options.dtype, options.device)
        size = files.transformer["sample_size"] * loaded.codec.downsampling
        return Opened(loaded, (loaded.transformer,), size, data)
    run = open_host(pipeline, routing, options.host_size, options.host_options, options.dtype, options.device)
    fusion = () if routing is None else (find_routing(run.pipe),)
    return Opened(run, (run.model, *fusion), run.size, data)


def choose_pictures(
    data: JsonObject, options: InformationOptions, size: int, tally: Tally
) -> tuple[list[CaptionedPicture], JsonObject]:
    """The pictures, and what another run needs in order to have the same ones."""
    if options.data is not None:
        return folder_pictures(options.data, options.examples, size, tally), {
            "sha256": sha256(options.data.read_text())
        }
    source = data.get("source", {})
    spacing = {key: source[key] for key in ("spacing", "crowd_spacing") if key in source}
    skills = options.skills or trained_skills(data) or SKILLS
    wording = source.get("wording", "sentence")
    pictures = scene_pictures(skills, options.examples, options.split, size, spacing, options.edited, wording)
    return pictures, {"split": options.split, **spacing}


def key_of(picture: CaptionedPicture, quantity: str, band: tuple[float, float] | None) -> str:
    """The key of a picture's value in the result."""
    return f"{picture.name}/{quantity}" + ("" if band is None else f"/{band_name(band)}")


def band_name(band: tuple[float, float]) -> str:
    """How a band of noise is called."""
    return f"log γ {band[0]:g} to {band[1]:g}"


def measures(found: Sequence[Measured]) -> list[Measure]:
    """Skills, kinds of edits, all skills together, and these by band; a column a quantity."""
    rows = []
    for quantity in (COST, INFORMATION, HEARD):
        by_skill: dict[str, list[CaptionedPicture]] = {}
        for measured in found:
            if quantity in measured.curves:
                by_skill.setdefault(measured.picture.skill, []).append(measured.picture)

        def group(
            pictures: list[CaptionedPicture], band: tuple[float, float] | None = None, of: str = quantity
        ) -> tuple[str, ...]:
            return tuple(key_of(picture, of, band) for picture in pictures)

        less = quantity == COST
        rows += [Measure(skill, (group(pictures),), quantity, (), less) for skill, pictures in by_skill.items()]
        if by_skill:
            groups = list(by_skill.values())
            for band in (None, *BANDS):
                name = OVERALL if band is None else band_name(band)
                rows.append(Measure(name, tuple(group(pictures, band) for pictures in groups), quantity, (), less))
    kinds = sorted({kind for measured in found for kind in measured.picture.edits})
    for kind in kinds:
        keys = (key_of(each.picture, f"{HEARD}: {kind}", None) for each in found if kind in each.picture.edits)
        rows.append(Measure(f"edit: {kind}", (tuple(keys),), HEARD))
    return rows


def mean_curves(found: Sequence[Measured]) -> NamedArray:
    """Means over pictures and their standard errors, by quantity and skill; not a number where there is no picture."""
    quantities = list(dict.fromkeys(chain.from_iterable(measured.curves for measured in found)))
    skills = list(dict.fromkeys(measured.picture.skill for measured in found))
    values = np.full((len(quantities), len(skills), 2, len(LOG_SNR)), np.nan)
    for i, quantity in enumerate(quantities):
        for j, skill in enumerate(skills):
            curves = [
                each.curves[quantity] for each in found if each.picture.skill == skill and quantity in each.curves
            ]
            if curves:
                values[i, j] = np.mean(curves, axis=0), np.std(curves, axis=0) / len(curves) ** 0.5
    return NamedArray(
        values, {"quantity": quantities, "skill": skills, "statistic": ["mean", "error"], "log_snr": list(LOG_SNR)}
    )


def draw(curves: NamedArray) -> Figure:
    """A panel a quantity and a curve a skill, with bands of one standard error."""
    quantities = [name for name in (COST, INFORMATION, HEARD) if name in curves.axes["quantity"]]
    canvas, axes = panels(1, len(quantities), 2.8)
    along = curves.numbers("log_snr")
    for place, quantity in zip(axes, quantities, strict=True):
        for number, skill in enumerate(curves.axes["skill"]):
            mean, error = curves.at(quantity=quantity, skill=skill)
            color, dash = OKABE_ITO[number % len(OKABE_ITO)], DASHES[number // len(OKABE_ITO) % len(DASHES)]
            place.plot(along, mean, color=color, linestyle=dash, label=str(skill))
            place.fill_between(along, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
        place.set(title=quantity, xlabel="log γ (left: noise, right: data)", ylabel="nats per unit of log γ")
    handles, labels = axes[0].get_legend_handles_labels()
    canvas.legend(handles, labels, ncols=5, loc="outside upper center")
    caption = "What captions leave open and what they tell, by noise level. Bands are one standard error over pictures."
    return Figure("curves", canvas, caption)
