"""The pipelines that a page offers. All users share them, so they take turns.

`diffusers`, slow to import, is imported with the first pipeline: the page is open by then.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..pipelines.saved import PipelineFiles, find_pipeline, layer_numbers
from .settings import Defaults, Settings
from .verdicts import scene_of

if TYPE_CHECKING:
    from ..pipelines import SemanticRoutingPipeline

OnStep = Callable[[int, int], None]
"""Told after each step how many steps are done, and of how many."""


class Models:
    """Pipelines by name, each opened when it is first used.

    Args:
        names: folders, hub names or `demo`.
        dtype: of the weights.
        device: None is cuda where there is one.

    Raises:
        ValueError: there is no name, or a folder that holds no pipeline.
    """

    def __init__(self, names: Sequence[str], dtype: str = "float32", device: str | None = None) -> None:
        if not names:
            raise ValueError("The page needs at least one pipeline, but none is named.")
        self._files = {name: find_pipeline(name) for name in names}
        self._dtype, self._device = dtype, device
        self._loaded: dict[str, "SemanticRoutingPipeline"] = {}
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """In the order in which they were named."""
        return list(self._files)

    def files(self, name: str) -> PipelineFiles:
        """What the small files of a pipeline say.

        Raises:
            ValueError: the page does not offer this pipeline.
        """
        if name not in self._files:
            raise ValueError(f"This page has no pipeline {name!r}: expected one of {', '.join(self._files)}.")
        return self._files[name]

    def layers(self, name: str) -> list[int]:
        """The language-model layers whose gains can be set; none where the transformer has no fusion."""
        files = self.files(name)
        return [] if files.strategy is None else layer_numbers(files)

    def trained_skills(self, name: str) -> tuple[str, ...] | None:
        """Skills of scenes that the pipeline was trained on; None where that is not known."""
        return self.files(name).trained_skills

    @contextmanager
    def use(self, name: str) -> Iterator["SemanticRoutingPipeline"]:
        """The pipeline, which nobody else uses meanwhile: while it samples it keeps what the call is about.

        Raises:
            ValueError: the page does not offer this pipeline.
        """
        files = self.files(name)
        with self._lock:
            from ..pipelines.loading import load_pipeline

            if name not in self._loaded:
                self._loaded[name] = load_pipeline(str(files.folder), self._dtype, self._device)
                self._loaded[name].set_progress_bar_config(disable=True)
            yield self._loaded[name]

    def defaults(self, name: str) -> Defaults:
        """The pipeline's own steps and guidance."""
        return Defaults.of(self.files(name))

    def warm_up(self) -> None:
        """Loads the first pipeline, and knows the prompts of Scenes: a click after that waits for neither.

        Raises:
            ValueError: the pipeline cannot be loaded.
        """
        self.make(Settings("a red circle", self.names[0], images=1, steps=1))
        scene_of("none of them")

    def make(self, settings: Settings, on_step: OnStep | None = None) -> list[Image.Image]:
        """Pictures of a prompt: the ones that `sroute generate` makes with the same options.

        Args:
            settings: what to make.
            on_step: told of each step.

        Raises:
            ValueError: the pipeline cannot make it.
        """

        def after_step(
            running: "SemanticRoutingPipeline", step: int, timestep: Tensor, tensors: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            if on_step is not None:
                on_step(step + 1, running.num_timesteps)
            return {}

        with self.use(settings.pipeline) as pipeline:
            return pipeline(
                settings.prompt,
                negative_prompt=settings.negative_prompt or None,
                height=settings.size,
                width=settings.size,
                num_inference_steps=settings.steps,
                guidance_scale=float(settings.guidance),
                num_images_per_prompt=settings.images,
                layer_gains=settings.gains,
                fusion_scale=float(settings.fusion_scale),
                generator=[torch.Generator().manual_seed(settings.seed + i) for i in range(settings.images)],
                callback_on_step_end=after_step,
                return_dict=False,
            )[0]
