"""The model that is analyzed, and what can be chosen of the analyses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..fusion import LayerGains, TextFusion
from ..fusion.gains import GainKey
from ..fusion.timestep_map import GateTime
from ..pipelines.saved import PipelineFiles, find_pipeline, layer_numbers, load_fusion
from ..reporting.arrays import Arrays, NamedArray
from .attention import Attended, Tokens, record_attention
from .base import ANALYSES, NAME_THE_HOST
from .layer_weights import layer_weights
from .samples import Latents, Pictures, Trajectory, decode, sample_latents, sample_trajectory, starting_noise

if TYPE_CHECKING:
    from ..evaluation.scenes import ScenePrompt
    from ..pipelines import SemanticRoutingPipeline
    from ..text import TextFeatures


@dataclass(frozen=True)
class AnalysisOptions:
    """What can be chosen of the analyses.

    Args:
        all_blocks: draw curves for all blocks, not only for the first, the middle and the last.
        prompts: to sample; None takes prompts of the embedded world, whose images can be judged.
        num_prompts: how many of those, spread over the skills.
        skills: of those; None is the skills that the model was trained on, or all where its folder does not say.
        steps: of the scheduler; None is the pipeline's own number.
        guidance: classifier-free guidance scale of samples; None is the pipeline's own.
        guidance_scales: scales at which trajectories are measured; 1, the control, and `guidance` always are.
        seed: image i starts from the noise of seed + i.
        amplitude: of the paper's eq. 11, in flow time.
        rounds: repetitions of each latency measurement.
        dtype: of the weights.
        device: None is cuda where there is one.

    Raises:
        ValueError: no prompt, or no step.
    """

    all_blocks: bool = False
    prompts: tuple[str, ...] | None = None
    num_prompts: int = 44
    skills: tuple[str, ...] | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_scales: tuple[float, ...] = (1.0, 2.0, 4.0, 7.0)
    seed: int = 0
    amplitude: float = 0.01
    rounds: int = 5
    dtype: str = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        if self.prompts is not None and not self.prompts:
            raise ValueError("The prompt file holds no prompt.")
        steps = 2 if self.steps is None else self.steps
        if self.num_prompts < 1 or steps < 2 or self.rounds < 1:
            raise ValueError(
                f"Analyses need at least 1 prompt, 2 steps and 1 round, not {self.num_prompts}, {steps} and "
                f"{self.rounds}."
            )


# What tells samples of the same prompts and noise apart.
_Variant = tuple[float, GateTime | None, frozenset[tuple[GainKey, float]]]


def _variant(guidance: float, timestep_map: GateTime | None = None, layer_gains: LayerGains | None = None) -> _Variant:
    return guidance, timestep_map, frozenset((layer_gains or {}).items())


class SavedModel:
    """A saved pipeline. Its parts are read when they are first asked for, and nothing is sampled twice.

    Args:
        files: the pipeline's small files.
        options: what was chosen.
    """

    def __init__(self, files: PipelineFiles, options: AnalysisOptions | None = None) -> None:
        self.files = files
        self.options = options or AnalysisOptions()
        self._results: dict[str, Arrays] = {}
        self._samples: dict[_Variant, Latents] = {}

    @cached_property
    def fusion(self) -> TextFusion | None:
        """The fusion alone; None where the transformer has none."""
        return None if self.files.strategy is None else load_fusion(self.files)

    @property
    def varies_with(self) -> frozenset[str]:
        """What the fusion varies with."""
        return frozenset() if self.fusion is None else self.fusion.varies_with

    @property
    def fusion_sentence(self) -> str:
        """What the model has, to follow "this model"."""
        if self.fusion is None:
            return "has no fusion"
        varied = " and ".join(sorted(self.varies_with)) or "nothing"
        weights = "" if self.weights is not None else ", and has no layer weights"
        return f"has the fusion {self.files.strategy}, which varies with {varied}{weights}"

    @cached_property
    def layers(self) -> list[int]:
        """The language-model layers that the fusion reads."""
        return layer_numbers(self.files)

    @cached_property
    def weights(self) -> NamedArray | None:
        """Fusion weights over flow_time, block and layer, as far as they vary; None where there is no such thing."""
        return layer_weights(self)

    @property
    def weight_axes(self) -> frozenset[str]:
        """Axes of `distributions`; empty where there are none."""
        weights = self.weights
        return frozenset() if weights is None or weights.values.min() < 0 else frozenset(weights.axes)

    @property
    def distributions(self) -> NamedArray:
        """The fusion weights, which are distributions over layers: none is negative.

        Raises:
            ValueError: there are no such weights.
        """
        if self.weights is None or not self.weight_axes:
            raise ValueError(f"This needs layer weights that are not negative; this model {self.fusion_sentence}.")
        return self.weights

    @property
    def magnitudes(self) -> NamedArray:
        """How large the fusion weights are, whatever their sign.

        Raises:
            ValueError: there are no weights.
        """
        if self.weights is None:
            raise ValueError(f"This needs layer weights; this model {self.fusion_sentence}.")
        return NamedArray(np.abs(self.weights.values), self.weights.axes)

    @cached_property
    def pipeline(self) -> "SemanticRoutingPipeline":
        """The whole pipeline, for sampling.

        Raises:
            ValueError: there is none.
        """
        if self.files.is_adapter:
            raise ValueError(f"{self.files.folder} is a fusion for a host: {NAME_THE_HOST}.")
        from ..pipelines.loading import load_pipeline

        return load_pipeline(str(self.files.folder), self.options.dtype, self.options.device)

    @property
    def steps(self) -> int:
        """Steps of the scheduler."""
        return self.options.steps or int(self.pipeline.config.default_num_inference_steps)

    @property
    def guidance(self) -> float:
        """Guidance scale of samples."""
        own = self.options.guidance
        return float(self.pipeline.config.default_guidance_scale) if own is None else own

    @property
    def guidance_scales(self) -> list[float]:
        """All guidance scales of trajectories, rising from the control."""
        return sorted({1.0, self.guidance, *self.options.guidance_scales})

    @property
    def is_host(self) -> bool:
        """Whether it is a model of another project with a fusion in it."""
        return False

    @property
    def shows_attention(self) -> bool:
        """Whether what blocks attend to can be watched."""
        return True

    @cached_property
    def trained_skills(self) -> tuple[str, ...] | None:
        """Skills of scenes that the model was trained on; None where its folder does not say."""
        return self.files.trained_skills

    @cached_property
    def scene_prompts(self) -> "list[ScenePrompt] | None":
        """Prompts of the embedded world, spread evenly over the chosen skills; None where prompts were given."""
        if self.options.prompts is not None:
            return None
        from ..evaluation.scenes import choose_prompts

        prompts = choose_prompts(self.options.skills or self.trained_skills or ())
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
        found = sample_trajectory(self.pipeline, self.prompts, self.noise, self.steps, guidance)
        self._samples[_variant(guidance)] = found.states[-1]
        return found

    def samples(
        self, guidance: float, timestep_map: GateTime | None = None, layer_gains: LayerGains | None = None
    ) -> Latents:
        """Final latents of all prompts."""
        key = _variant(guidance, timestep_map, layer_gains)
        if key not in self._samples:
            self._samples[key] = self._make_samples(guidance, timestep_map, layer_gains)
        return self._samples[key]

    def _make_samples(self, guidance: float, timestep_map: GateTime | None, layer_gains: LayerGains | None) -> Latents:
        return self.samples_of(self.pipeline, guidance, timestep_map, layer_gains)

    def samples_of(
        self,
        pipeline: "SemanticRoutingPipeline",
        guidance: float,
        timestep_map: GateTime | None = None,
        layer_gains: LayerGains | None = None,
    ) -> Latents:
        """Final latents that another pipeline makes of the same prompts and noise."""
        return sample_latents(pipeline, self.prompts, self.noise, self.steps, guidance, timestep_map, layer_gains)

    def correct(self, latents: Latents) -> NDArray[np.bool_] | None:
        """Whether each image shows all that its prompt claims; None for prompts that cannot be judged."""
        if self.scene_prompts is None:
            return None
        from ..scenes import judge

        pictures = self.pictures(latents)
        pairs = zip(pictures, self.scene_prompts, strict=True)
        return np.array([all(judge(picture, prompt.claims)) for picture, prompt in pairs])

    def pictures(self, latents: Latents) -> Pictures:
        """Pictures of final latents."""
        return decode(self.pipeline, latents)

    @property
    def running_fusion(self) -> TextFusion:
        """The fusion in the model that samples."""
        fusion: TextFusion = self.pipeline.transformer.fusion
        return fusion

    @property
    def language_model_layers(self) -> int:
        """Of the whole language model."""
        return int(self.pipeline.text_encoder.config.num_hidden_layers)

    def features(self, prompts: Sequence[str]) -> "TextFeatures":
        """What the fusion reads of prompts."""
        transformer = self.pipeline.transformer
        return self.pipeline.prompt_encoder(prompts).to(transformer.device, transformer.dtype)

    def samples_of_layers(self, kept: Sequence[int]) -> Latents:
        """Final latents of all prompts when only the layers at positions `kept` are read."""
        from ..pipelines.prune import prune_pipeline

        return self.samples_of(prune_pipeline(self.pipeline, kept), self.guidance)

    def tokens(self, prompt: str) -> Tokens:
        """The tokens of a prompt."""
        encoder = self.pipeline.prompt_encoder
        return Tokens.of(encoder.tokenizer, encoder.tokenize([prompt])[0][0].tolist())

    def attend(self, prompt: str) -> Attended:
        """Makes the first prompt's image, and watches what its blocks attend to."""
        blocks = self.pipeline.transformer.blocks
        with record_attention(self.pipeline.transformer) as seen:
            times, _ = sample_trajectory(self.pipeline, [prompt], self.noise[:1], self.steps, self.guidance)
        # The prompt's row is the last one of each call: guidance puts the unconditional row first.
        calls = torch.stack([attention[-1] for attention in seen]).double().cpu().numpy()
        return Attended(times[:-1], calls.reshape(-1, len(blocks), calls.shape[-1]))

    def result(self, name: str) -> Arrays:
        """The numbers of the analysis called `name`, computed once."""
        if name not in self._results:
            self._results[name] = ANALYSES.find(name)().compute(self)
        return self._results[name]


def open_model(
    pipeline: str,
    options: AnalysisOptions | None = None,
    routing: Path | None = None,
    host_size: int | None = None,
    host_options: Mapping[str, Any] | None = None,
) -> SavedModel:
    """The model that is analyzed; see `report.analyze`."""
    if routing is None:
        return SavedModel(find_pipeline(pipeline), options)
    from .host import RoutedHost

    return RoutedHost(pipeline, routing, options, host_size, host_options)
