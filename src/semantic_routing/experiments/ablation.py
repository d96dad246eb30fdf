"""Fusion strategies against each other on the embedded world: every strategy and seed is trained, sampled and scored.

    OUT/STRATEGY/seed-0/run/        training
    OUT/STRATEGY/seed-0/pipeline/   its averaged weights
    OUT/STRATEGY/seed-0/guidance/   the scale of guidance that does best on a list of its own, where several are named
    OUT/STRATEGY/seed-0/scenes/     images and scores
    OUT/STRATEGY/seed-0/shifted/    the same with the gate's time shifted, where the strategy depends on time
    OUT/STRATEGY/seed-0/information/  nats that captions leave open, where they are asked for
    OUT/index.html                  tables and curves (see `ablation_page`)

Whatever is there already is not done again; interrupted training goes on where it was.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import torch

from ..data.sources import ScenesSource
from ..evaluation import Scenes, information_run
from ..evaluation.information_run import InformationOptions
from ..evaluation.result import Result
from ..evaluation.runner import sample, score
from ..evaluation.sampler import Sampler
from ..evaluation.scenes import PROMPTS_PER_HALF
from ..fusion import FUSIONS, PAPER_STRATEGIES
from ..io.files import CONFIG
from ..io.messages import StoppedError
from ..io.user_code import import_user_code, imported
from ..models import MODELS
from ..training import train
from ..training.build import resolve_sizes
from ..training.checkpoint import checkpoint_step, list_checkpoints
from ..training.config import Config, load_config
from ..training.export import export_pipeline

logger = logging.getLogger(__name__)

GATE_SHIFT = 0.01
"""Amplitude of the shift of the gate's time: the paper's (eq. 11)."""
TUNING_PER_HALF = 5
"""Prompts of each skill and half that guidance is chosen on."""
SHARED = ("data", "flow", "optimizer", "text", "vae")
"""Sections that strategies should have in common to be comparable."""


@dataclass(frozen=True)
class AblationOptions:
    """How trained models are sampled, scored and compared.

    Args:
        images_per_prompt: images of each prompt.
        prompts_per_half: of each skill, prompts with trained and with held-out combinations; 20 is all.
        steps: Euler steps.
        guidance: classifier-free guidance scales; of several each model gets the one that does best on another list
            of prompts.
        batch_size: images at a time.
        skills: what is sampled and scored; none named is all plain ones.
        information: pictures of each skill of the training whose cost in nats is measured; 0 measures none.
        scores: sample and score images; without them only information is measured.
        text_pool: folder that keeps features of all prompts and captions; None keeps none.
        primary: the strategy whose difference from the first one is the primary contrast of a table; None is
            depth-wise, the paper's best, or where it is not among them the last one.
    """

    images_per_prompt: int = 1
    prompts_per_half: int = PROMPTS_PER_HALF
    steps: int = 30
    guidance: tuple[float, ...] = (2.0,)
    batch_size: int = 64
    skills: tuple[str, ...] = ()
    information: int = 0
    scores: bool = True
    text_pool: Path | None = None
    primary: str | None = None

    def benchmark(self, trial: "Trial | None" = None, tuning: bool = False) -> Scenes:
        """What a trained model is scored by, in the words that it was trained on; or what its guidance is chosen on.

        Raises:
            ValueError: an unknown skill.
        """
        per_half = min(self.prompts_per_half, TUNING_PER_HALF) if tuning else self.prompts_per_half
        source = None if trial is None else trial.config.data.source
        wording = source.wording if isinstance(source, ScenesSource) else "sentence"
        return Scenes(",".join(self.skills) or None, prompts_per_half=per_half, tuning=tuning, wording=wording)

    def sampler(self, pipeline: Path, guidance: float) -> Sampler:
        """How a trained model is sampled."""
        return Sampler(
            str(pipeline),
            images_per_prompt=self.images_per_prompt,
            steps=self.steps,
            guidance=guidance,
            batch_size=self.batch_size,
            text_pool=self.text_pool,
        )


def primary_of(labels: Sequence[str], options: AblationOptions) -> str:
    """The strategy of the primary contrast.

    Raises:
        ValueError: one is named that is not compared with the first.
    """
    if options.primary is not None and options.primary not in labels[1:]:
        raise ValueError(f"The primary contrast must be one of {', '.join(labels[1:])}, not {options.primary!r}.")
    return options.primary or ("depth-wise" if "depth-wise" in labels[1:] else labels[-1])


def default_strategies(config: str, overrides: Sequence[str] = ()) -> list[str]:
    """The paper's six, and the config's own where it is another."""
    own = load_config(config, overrides).model.strategy
    return list(dict.fromkeys([*PAPER_STRATEGIES, *([own] if own else [])]))


@dataclass(frozen=True)
class Trial:
    """One strategy trained with one seed."""

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


def make_trials(
    config: str,
    overrides: Sequence[str],
    strategies: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    match: Callable[[list[Trial]], list[Trial]] | None = None,
) -> list[Trial]:
    """All strategies by all seeds, checked.

    Args:
        config: a file or preset that every strategy starts from.
        overrides: changes to it.
        strategies: names; or config files, for what one word does not say, which go by their stem.
        seeds: of initialization, data order and noise in training.
        out: folder of the ablation.
        match: changes the configs so that strategies are alike in something, such as
            `ablation_cost.match_parameters`.

    Raises:
        ValueError: one of the configs cannot be run, or `out` holds a run of another config.
    """
    if not strategies or not seeds:
        raise ValueError("An ablation needs at least one strategy and one seed.")
    load_config(config, overrides)  # imports what it names, perhaps one of the strategies
    trials = []
    for name in strategies:
        known = {strategy: [f"model.strategy={strategy}"] for strategy in FUSIONS}
        known |= {kind: [f"model.kind={kind}", "model.strategy=null"] for kind in MODELS if kind != "routed"}
        label = name if name in known else Path(name).stem
        changes = known.get(name, [])
        for seed in seeds:
            folder = out / label / f"seed-{seed}"
            place = [f"training.output={folder / 'run'}", f"training.seed={seed}"]
            source = config if name in known else name
            trials.append(Trial(label, seed, folder, load_config(source, [*overrides, *changes, *place])))
        resolve_sizes(trials[-1].config)
    places = [trial.folder for trial in trials]
    if len(set(places)) < len(places):
        raise ValueError("A strategy or a seed is named twice.")
    _warn_of_differences(trials)
    if match is not None:
        trials = match(trials)
    for trial in trials:
        _check_same_config(trial)
    return trials


def _check_same_config(trial: Trial) -> None:
    written = trial.run / CONFIG
    if written.is_file() and written.read_text() != trial.config.to_yaml():
        raise ValueError(f"{trial.folder} holds a run of another config; name another --out or remove the folder.")


def _warn_of_differences(trials: Sequence[Trial]) -> None:
    """Says where strategies differ in more than their name: then it is not the strategies alone that are compared."""
    first = trials[0].config
    for trial in trials:
        unlike = [name for name in SHARED if getattr(trial.config, name) != getattr(first, name)]
        own, theirs = (config.model.model_dump(exclude={"kind", "strategy"}) for config in (trial.config, first))
        unlike += [f"model.{key}" for key in own if own[key] != theirs[key]]
        budget = ("steps", "batch_size", "ema_decay")
        unlike += [key for key in budget if getattr(trial.config.training, key) != getattr(first.training, key)]
        if unlike and trial.seed == trials[0].seed:
            logger.warning("%s differs from %s also in %s.", trial.label, trials[0].label, ", ".join(unlike))


def run_ablation(trials: Sequence[Trial], options: AblationOptions, jobs: int | None = None) -> None:
    """Trains, samples and scores what is not done yet.

    Args:
        trials: what to do.
        options: of sampling and scoring.
        jobs: trials at a time, each with a device of its own where there are several; None is one a device.

    Raises:
        StoppedError: the process of a trial died.
    """
    devices = torch.cuda.device_count()
    jobs = min(jobs or max(devices, 1), len(trials))
    if jobs == 1:
        for number, trial in enumerate(trials, 1):
            logger.info("%s, seed %d (%d of %d)", trial.label, trial.seed, number, len(trials))
            run_trial(trial, options)
        return
    context = multiprocessing.get_context("spawn")
    queue: "Queue[str]" = context.Queue()
    for number in range(jobs):
        queue.put(str(number % devices) if devices else "")
    with ProcessPoolExecutor(jobs, context, _start_process, (queue, imported())) as pool:
        for trial, future in [(trial, pool.submit(run_trial, trial, options)) for trial in trials]:
            try:
                future.result()
            except BrokenProcessPool as error:
                raise StoppedError(
                    "A process that trains died, most often because the machine had no memory left; run the command "
                    "again to go on, with fewer --jobs."
                ) from error
            logger.info("%s, seed %d is done", trial.label, trial.seed)


def _start_process(queue: "Queue[str]", imports: Sequence[str]) -> None:
    """Gives a process the one device that it will see, before it has looked, and the user's classes."""
    os.environ["CUDA_VISIBLE_DEVICES"] = queue.get()
    import_user_code(imports)


def run_trial(trial: Trial, options: AblationOptions) -> None:
    """Trains, samples and scores one strategy with one seed.

    Raises:
        KeyboardInterrupt: training was asked to stop; it goes on when run again.
    """
    _train(trial)
    if not trial.pipeline.is_dir():
        export_pipeline(trial.run, trial.pipeline, with_text_encoder=False)
    if options.information:
        measure_cost(trial, options)
    if options.scores:
        sampler = options.sampler(trial.pipeline, choose_guidance(trial, options))
        _evaluate(options.benchmark(trial), sampler, trial.folder / "scenes")
        if trial.depends_on_time:
            _evaluate(options.benchmark(trial), replace(sampler, gate_shift=GATE_SHIFT), trial.folder / "shifted")


def measure_cost(trial: Trial, options: AblationOptions) -> None:
    """Measures what captions leave open, unless that was done."""
    out = trial.folder / "information"
    if not (out / "result.json").is_file():
        measured = InformationOptions(
            examples=options.information, unconditional=False, edited=False, text_pool=options.text_pool
        )
        information_run.run(str(trial.pipeline), measured, out)


def choose_guidance(trial: Trial, options: AblationOptions) -> float:
    """The scale of guidance with the highest score on the tuning list; the smallest one of equals."""
    if len(options.guidance) == 1:
        return options.guidance[0]
    scores = {}
    for guidance in sorted(options.guidance):
        result = _evaluate(
            options.benchmark(trial, tuning=True),
            options.sampler(trial.pipeline, guidance),
            trial.folder / "guidance" / f"{guidance:g}",
        )
        scores[guidance] = float(np.mean(list(result.values.values())))
    return max(scores, key=scores.__getitem__)


def _train(trial: Trial) -> None:
    steps = trial.config.training.steps
    checkpoints = list_checkpoints(trial.run)
    if checkpoints and checkpoint_step(checkpoints[-1]) >= steps:
        return
    last = train(trial.config, "latest" if checkpoints else None)
    if checkpoint_step(last) < steps:
        raise KeyboardInterrupt(f"{trial.label}, seed {trial.seed} stopped at step {checkpoint_step(last)} of {steps}.")


def _evaluate(benchmark: Scenes, sampler: Sampler, out: Path) -> Result:
    sample(benchmark, sampler, out)
    return score(benchmark, out)
