"""A host with a fusion in it, as analyses see a model."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from ..adapters import find_routing, set_layer_gains
from ..adapters.attach import fewer_layers
from ..adapters.capture import EncoderSizes
from ..adapters.hosts import TIMES, config_of
from ..adapters.run import HostRun, Latents
from ..fusion import LayerGains, TextFusion
from ..fusion.timestep_map import GateTime
from ..pipelines.host import open_host
from ..pipelines.saved import find_pipeline
from ..text import TextFeatures
from .attention import Attended, Tokens, record_host_attention
from .model import AnalysisOptions, SavedModel
from .samples import Pictures, gaussian


class RoutedHost(SavedModel):
    """A host's pipeline, and the fusion that was trained in it.

    Args:
        name: folder or hub name of the host's pipeline.
        routing: folder of the fusion.
        options: what was chosen.
        size: pixels a side; None is what the fusion was trained with, or what the host was made for.
        call: more arguments of the pipeline's call; None is those that the fusion was trained with.
    """

    def __init__(
        self,
        name: str,
        routing: Path,
        options: AnalysisOptions | None = None,
        size: int | None = None,
        call: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(find_pipeline(str(routing)), options)
        self._host = name, routing, size, call

    @cached_property
    def run(self) -> HostRun:
        """The host, with the fusion in it."""
        return open_host(*self._host, self.options.dtype, self.options.device)

    @property
    def pipeline(self) -> NoReturn:
        """There is none of ours."""
        raise ValueError(f"{self.files.folder} is a fusion for a host, and this needs a pipeline of ours.")

    @property
    def is_host(self) -> bool:
        """It is."""
        return True

    @property
    def shows_attention(self) -> bool:
        """Whether blocks attend to text alone, by queries that do not turn with their position."""
        turned = "image_rotary_emb" in inspect.signature(type(self.run.model).forward).parameters
        return not turned and all(hasattr(block, "to_q") for block in self._blocks)

    @property
    def _blocks(self) -> list[nn.Module]:
        return self.run.host.text_blocks(self.run.model)

    @property
    def steps(self) -> int:
        """Steps of the scheduler."""
        return self.options.steps or int(self.run.default("num_inference_steps"))

    @property
    def guidance(self) -> float:
        """Guidance scale of samples."""
        own = self.options.guidance
        return float(self.run.default("guidance_scale")) if own is None else own

    @property
    def running_fusion(self) -> TextFusion:
        """The fusion in the host."""
        return find_routing(self.run.pipe).fusion

    @property
    def language_model_layers(self) -> int:
        """Of the text encoder that is read."""
        return EncoderSizes.of(self.run.encoder).num_layers

    @cached_property
    def noise(self) -> Latents:
        """The starting noise of each prompt's image."""
        shape = self.run.call(self.prompts[:1]).image_shape[1:]
        return gaussian(len(self.prompts), shape, self.options.seed)

    def features(self, prompts: Sequence[str]) -> TextFeatures:
        """What the fusion reads of prompts, as the host's own pipeline encodes them."""
        routing = find_routing(self.run.pipe)
        step = routing.read(self.run.model, *self.run.call(prompts).call)
        return TextFeatures(step.layers, step.mask)

    def _make_samples(self, guidance: float, timestep_map: GateTime | None, layer_gains: LayerGains | None) -> Latents:
        set_layer_gains(self.run.pipe, layer_gains)
        try:
            return self.run.sample(self.prompts, self.noise, self.steps, guidance)
        finally:
            set_layer_gains(self.run.pipe, None)

    def samples_of_layers(self, kept: Sequence[int]) -> Latents:
        """Final latents of all prompts when only the layers at positions `kept` are read."""
        with fewer_layers(self.run.pipe, kept):
            return self.run.sample(self.prompts, self.noise, self.steps, self.guidance)

    def pictures(self, latents: Latents) -> Pictures:
        """Pictures of final latents."""
        return self.run.pictures(latents)

    def tokens(self, prompt: str) -> Tokens:
        """The real tokens of a prompt; a template that the pipeline leaves out of the text is left out here."""
        tokenizer = getattr(self.run.pipe, self.run.host.encoder.replace("text_encoder", "tokenizer"))
        with self.run.watching_tokens() as seen:
            features = self.features([prompt])
        ids = seen[0][0].tolist()[-features.mask.shape[1] :]
        return Tokens.of(tokenizer, ids[: int(features.mask.sum())])

    def attend(self, prompt: str) -> Attended:
        """Makes the first prompt's image without guidance, and watches what its blocks attend to."""
        run, routing, times = self.run, find_routing(self.run.pipe), []

        def see(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            time = torch.as_tensor(routing.time.get(args, kwargs)).float().flatten().amax()
            times.append(1 - float(TIMES[run.host.time](time, config_of(model))) / 1000)

        handle = run.model.register_forward_pre_hook(see, with_kwargs=True)
        try:
            with record_host_attention(self._blocks) as seen:
                run.sample([prompt], self.noise[:1], self.steps, 1.0)
        finally:
            handle.remove()
        calls = torch.stack([attention[-1] for attention in seen]).double().cpu().numpy()
        return Attended(torch.tensor(times).double().numpy(), calls.reshape(-1, len(self._blocks), calls.shape[-1]))
