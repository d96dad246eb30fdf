"""What an analysis is, and the model that it looks at."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..fusion import STRATEGIES, SemanticRouter
from ..fusion.timestep_map import TimestepMap
from ..pipelines.saved import PipelineFiles, fusion_weights, layer_numbers, load_router
from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import Drawing
from .sampling import Latents, Trajectory, decode, sample_latents, sample_trajectory, starting_noise

if TYPE_CHECKING:
    from ..evaluation.scenes import ScenePrompt

FINE_TIMES: NDArray[np.float64] = np.linspace(0, 1, 21).round(6)
AXIS_LABELS = {"block": "DiT block", "flow_time": "flow time t (0 noise, 1 data)"}


@dataclass(frozen=True)
class AnalysisOptions:
    """What can be chosen of the analyses.

    Args:
        all_blocks: draw curves for all blocks, not only for the first, the middle and the last.
        prompts: to sample; None takes prompts of the embedded world, whose images can be judged.
        num_prompts: how many of those, spread over all skills.
        steps: Euler steps.
        guidance: classifier-free guidance scale of samples.
        guidance_scales: scales at which trajectories are measured; 1, the control, and `guidance` always are.
        seed: image i starts from the noise of seed + i.
        amplitude: of the advance that stands for the paper's eq. 11, in flow time.
        window: where that advance begins and ends, in flow time.
        rounds: repetitions of each latency measurement.
        dtype: of the weights.
        device: None is cuda where there is one.

    Raises:
        ValueError: no prompt, or no step.
    """

    all_blocks: bool = False
    prompts: tuple[str, ...] | None = None
    num_prompts: int = 44
    steps: int = 50
    guidance: float = 2.0
    guidance_scales: tuple[float, ...] = (1.0, 2.0, 4.0, 7.0)
    seed: int = 0
    amplitude: float = 0.1
    window: tuple[float, float] = (0.0, 1.0)
    rounds: int = 5
    dtype: str = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        if self.prompts is not None and not self.prompts:
            raise ValueError("The prompt file holds no prompt.")
        if self.num_prompts < 1 or self.steps < 2 or self.rounds < 1:
            raise ValueError(
                f"Analyses need at least 1 prompt, 2 steps and 1 round, not {self.num_prompts}, {self.steps} and "
                f"{self.rounds}."
            )

    @property
    def scales(self) -> list[float]:
        """All guidance scales of trajectories, rising from the control."""
        return sorted({1.0, self.guidance, *self.guidance_scales})


class Subject:
    """A saved model. Its parts are read when they are first asked for, and nothing is sampled twice.

    Args:
        files: the pipeline's small files.
        options: what was chosen.
    """

    def __init__(self, files: PipelineFiles, options: AnalysisOptions | None = None) -> None:
        self.files = files
        self.options = options or AnalysisOptions()
        self._results: dict[str, Arrays] = {}
        self._samples: dict[tuple[float, TimestepMap | None], Latents] = {}

    @property
    def strategy(self) -> str:
        """The fusion strategy."""
        return self.files.strategy

    @cached_property
    def router(self) -> SemanticRouter:
        """The router alone."""
        return load_router(self.files)

    @cached_property
    def layers(self) -> list[int]:
        """The language-model layers that the router reads."""
        return layer_numbers(self.files)

    def weights(self, flow_times: NDArray[np.float64]) -> NamedArray:
        """Fusion weights, without the axes flow_time or block where the strategy does not depend on them."""
        values = fusion_weights(self.router, flow_times)
        axes: dict[str, Coordinates] = {}
        if self.router.depends_on_time:
            axes["flow_time"] = flow_times.tolist()
        if self.router.depends_on_depth:
            axes["block"] = range(self.router.num_blocks)
        axes["layer"] = self.layers
        return NamedArray(values.reshape([len(coordinates) for coordinates in axes.values()]), axes)

    @cached_property
    def pipeline(self) -> Any:
        """The whole pipeline, for sampling."""
        from ..pipelines.loading import load_pipeline

        return load_pipeline(self.files.name, self.options.dtype, self.options.device)

    @cached_property
    def scene_prompts(self) -> "list[ScenePrompt] | None":
        """Prompts of the embedded world, spread evenly over its benchmark; None where prompts were given."""
        if self.options.prompts is not None:
            return None
        from ..evaluation.scenes import scene_prompts

        prompts = scene_prompts()
        count = min(self.options.num_prompts, len(prompts))
        return [prompts[number * len(prompts) // count] for number in range(count)]

    @property
    def prompts(self) -> list[str]:
        """What is sampled."""
        if self.scene_prompts is None:
            return list(self.options.prompts or ())
        return [prompt.prompt for prompt in self.scene_prompts]

    @cached_property
    def noise(self) -> Latents:
        """The starting noise of each prompt's image."""
        return starting_noise(self.pipeline, len(self.prompts), self.options.seed)

    def trajectory(self, guidance: float) -> Trajectory:
        """How all prompts' images come about; only their ends are kept."""
        found = sample_trajectory(self.pipeline, self.prompts, self.noise, self.options.steps, guidance)
        self._samples[guidance, None] = found.states[-1]
        return found

    def samples(self, guidance: float, timestep_map: TimestepMap | None = None) -> Latents:
        """Final latents of all prompts."""
        key = (guidance, timestep_map)
        if key not in self._samples:
            self._samples[key] = self.samples_of(self.pipeline, guidance, timestep_map)
        return self._samples[key]

    def samples_of(self, pipeline: Any, guidance: float, timestep_map: TimestepMap | None = None) -> Latents:
        """Final latents that another pipeline makes of the same prompts and noise."""
        return sample_latents(pipeline, self.prompts, self.noise, self.options.steps, guidance, timestep_map)

    def correct(self, latents: Latents) -> NDArray[np.bool_] | None:
        """Whether each image shows all that its prompt claims; None for prompts that cannot be judged."""
        if self.scene_prompts is None:
            return None
        from ..scenes import judge

        pictures = decode(self.pipeline, latents)
        pairs = zip(pictures, self.scene_prompts, strict=True)
        return np.array([all(judge(picture, prompt.claims)) for picture, prompt in pairs])

    def result(self, analysis: "Analysis") -> Arrays:
        """The numbers of an analysis, computed once."""
        if analysis.name not in self._results:
            self._results[analysis.name] = analysis.compute(self)
        return self._results[analysis.name]


class Table(NamedTuple):
    """What a table says, its column heads, and its rows."""

    caption: str
    header: list[str]
    rows: list[list[str]]


class Analysis(ABC):
    """A figure or table of the paper: what it needs, what it computes, what it draws."""

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[Literal["weights", "sampling"]]

    @classmethod
    @abstractmethod
    def applies_to(cls, strategy: str) -> bool:
        """Whether a model of this fusion strategy has it."""

    @abstractmethod
    def compute(self, subject: Subject) -> Arrays:
        """The numbers."""

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """Sentences with the numbers that matter, for the report."""
        return []

    def tables(self, arrays: Arrays, subject: Subject) -> list[Table]:
        """Tables for the report."""
        return []

    @abstractmethod
    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """The pictures of these numbers."""


def routed(strategy: str) -> bool:
    """Whether a strategy weighs layers."""
    return strategy in STRATEGIES


def on_time(strategy: str) -> bool:
    """Whether a strategy's weights depend on time."""
    return routed(strategy) and STRATEGIES[strategy].depends_on_time


def on_depth(strategy: str) -> bool:
    """Whether a strategy's weights depend on the block."""
    return routed(strategy) and STRATEGIES[strategy].depends_on_depth


def marginals(weights: NamedArray) -> dict[str, NamedArray]:
    """Weights by block and by flow_time, as far as they depend on them, each averaged over the other."""
    axes = [axis for axis in ("block", "flow_time") if axis in weights.axes]
    found: dict[str, NamedArray] = {}
    for axis in axes:
        others = tuple(number for number, name in enumerate(weights.axes) if name not in (axis, "layer"))
        found[axis] = NamedArray(
            weights.values.mean(others), {axis: weights.axes[axis], "layer": weights.axes["layer"]}
        )
    return found
