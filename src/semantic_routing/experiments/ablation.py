"""Fusion strategies against each other on the embedded world: every strategy and seed is trained, sampled and scored.

    OUT/STRATEGY/seed-0/run/        training
    OUT/STRATEGY/seed-0/pipeline/   its averaged weights
    OUT/STRATEGY/seed-0/scenes/     images and scores
    OUT/STRATEGY/seed-0/advanced/   the same with the gate ahead of the backbone, where the strategy depends on time
    OUT/index.html                  tables and curves (see `ablation_page`)

Whatever is there already is not done again; interrupted training goes on where it was.
"""

import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..evaluation import scenes
from ..evaluation.sampling import Sampler
from ..fusion import FUSIONS
from ..models import MODELS
from ..training import train
from ..training.build import resolve_sizes
from ..training.checkpoint import checkpoint_step, list_checkpoints
from ..training.config import Config, load_config
from ..training.export import export_pipeline

logger = logging.getLogger(__name__)

GATE_ADVANCE = 0.01
"""Amplitude of the gate's advance (paper, eq. 11), in flow time."""
SHARED = ("data", "flow", "optimizer", "text", "vae")
"""Sections that strategies should have in common to be comparable."""


@dataclass(frozen=True)
class AblationOptions:
    """How trained models are sampled and scored.

    Args:
        images_per_prompt: images of each prompt.
        prompts_per_half: of each skill, prompts with trained and with held-out combinations; 20 is all.
        steps: Euler steps.
        guidance: classifier-free guidance scale.
        batch_size: images at a time.
        skills: what is sampled and scored; none named is all.
    """

    images_per_prompt: int = 1
    prompts_per_half: int = scenes.PROMPTS_PER_HALF
    steps: int = 30
    guidance: float = 2.0
    batch_size: int = 64
    skills: tuple[str, ...] = ()

    def prompts(self) -> list[scenes.ScenePrompt]:
        """What every trained model is asked for.

        Raises:
            ValueError: an unknown skill.
        """
        return scenes.choose_prompts(self.skills, per_half=self.prompts_per_half)


@dataclass(frozen=True)
class Cell:
    """One strategy with one seed."""

    label: str
    seed: int
    folder: Path
    config: Config

    @property
    def run(self) -> Path:
        """The training run."""
        return self.folder / "run"

    @property
    def pipeline(self) -> Path:
        """What it led to."""
        return self.folder / "pipeline"

    @property
    def depends_on_time(self) -> bool:
        """Whether the strategy has a gate that sees the time."""
        strategy = FUSIONS.get(self.config.model.strategy or "")
        return strategy is not None and "timestep" in strategy.varies_with


def make_cells(
    config: str, overrides: Sequence[str], strategies: Sequence[str], seeds: Sequence[int], out: Path
) -> list[Cell]:
    """All strategies by all seeds, checked.

    Args:
        config: a file or preset that every strategy starts from.
        overrides: changes to it.
        strategies: names; or config files, for what one word does not say, which go by their stem.
        seeds: of initialization, data order and noise in training.
        out: folder of the ablation.

    Raises:
        ValueError: one of the configs cannot be run, or `out` holds a run of another config.
    """
    if not strategies or not seeds:
        raise ValueError("An ablation needs at least one strategy and one seed.")
    cells = []
    for name in strategies:
        known = {strategy: [f"model.strategy={strategy}"] for strategy in FUSIONS}
        known |= {kind: [f"model.kind={kind}", "model.strategy=null"] for kind in MODELS if kind != "routed"}
        label = name if name in known else Path(name).stem
        changes = known.get(name, [])
        for seed in seeds:
            folder = out / label / f"seed-{seed}"
            place = [f"training.output={folder / 'run'}", f"training.seed={seed}"]
            source = config if name in known else name
            cells.append(Cell(label, seed, folder, load_config(source, [*overrides, *changes, *place])))
        resolve_sizes(cells[-1].config)
    places = [cell.folder for cell in cells]
    if len(set(places)) < len(places):
        raise ValueError("A strategy or a seed is named twice.")
    for cell in cells:
        _check_same_config(cell)
    _warn_of_differences(cells)
    return cells


def _check_same_config(cell: Cell) -> None:
    written = cell.run / "config.yaml"
    if written.is_file() and written.read_text() != cell.config.to_yaml():
        raise ValueError(f"{cell.folder} holds a run of another config; name another --out or remove the folder.")


def _warn_of_differences(cells: Sequence[Cell]) -> None:
    """Says where strategies differ in more than their name: then it is not the strategies alone that are compared."""
    first = cells[0].config
    for cell in cells:
        unlike = [name for name in SHARED if getattr(cell.config, name) != getattr(first, name)]
        own, theirs = (config.model.model_dump(exclude={"kind", "strategy"}) for config in (cell.config, first))
        unlike += [f"model.{key}" for key in own if own[key] != theirs[key]]
        budget = ("steps", "batch_size", "ema_decay")
        unlike += [key for key in budget if getattr(cell.config.training, key) != getattr(first.training, key)]
        if unlike and cell.seed == cells[0].seed:
            logger.warning("%s differs from %s also in %s.", cell.label, cells[0].label, ", ".join(unlike))


def run_ablation(cells: Sequence[Cell], options: AblationOptions, jobs: int | None = None) -> None:
    """Trains, samples and scores what is not done yet.

    Args:
        cells: what to do.
        options: of sampling and scoring.
        jobs: cells at a time, each with a device of its own where there are several; None is one a device.
    """
    devices = torch.cuda.device_count()
    jobs = min(jobs or max(devices, 1), len(cells))
    if jobs == 1:
        for number, cell in enumerate(cells, 1):
            logger.info("%s, seed %d (%d of %d)", cell.label, cell.seed, number, len(cells))
            run_cell(cell, options)
        return
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    for number in range(jobs):
        queue.put(str(number % devices) if devices else "")
    with ProcessPoolExecutor(jobs, context, _claim_device, (queue,)) as pool:
        for cell, future in [(cell, pool.submit(run_cell, cell, options)) for cell in cells]:
            future.result()
            logger.info("%s, seed %d is done", cell.label, cell.seed)


def _claim_device(queue: Any) -> None:
    """Gives a process the one device that it will see, before it has looked."""
    os.environ["CUDA_VISIBLE_DEVICES"] = queue.get()


def run_cell(cell: Cell, options: AblationOptions) -> None:
    """Trains, samples and scores one strategy with one seed.

    Raises:
        KeyboardInterrupt: training was asked to stop; it goes on when run again.
    """
    _train(cell)
    if not cell.pipeline.is_dir():
        export_pipeline(cell.run, cell.pipeline, with_text_encoder=False)
    sampler = Sampler(
        str(cell.pipeline),
        options.steps,
        options.guidance,
        options.images_per_prompt,
        batch_size=options.batch_size,
    )
    _evaluate(sampler, options, cell.folder / "scenes")
    if cell.depends_on_time:
        _evaluate(replace(sampler, gate_advance=GATE_ADVANCE), options, cell.folder / "advanced")


def _train(cell: Cell) -> None:
    steps = cell.config.training.steps
    checkpoints = list_checkpoints(cell.run)
    if checkpoints and checkpoint_step(checkpoints[-1]) >= steps:
        return
    last = train(cell.config, "latest" if checkpoints else None)
    if checkpoint_step(last) < steps:
        raise KeyboardInterrupt(f"{cell.label}, seed {cell.seed} stopped at step {checkpoint_step(last)} of {steps}.")


def _evaluate(sampler: Sampler, options: AblationOptions, out: Path) -> None:
    prompts = options.prompts()
    scenes.sample(prompts, sampler, out)
    scenes.score(prompts, out)
