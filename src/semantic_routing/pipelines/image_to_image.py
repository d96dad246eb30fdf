"""Image to image: sampling begins at an image under some of the noise, and not at noise alone."""

from typing import Any

import diffusers
import torch
from diffusers import ImagePipelineOutput
from diffusers.image_processor import PipelineImageInput
from torch import Tensor

from ..flow import interpolate
from .semantic_routing import SemanticRoutingPipeline


class SemanticRoutingImg2ImgPipeline(SemanticRoutingPipeline):
    """Images and prompts in, images out; it has the components of `SemanticRoutingPipeline`.

    >>> pipeline = SemanticRoutingImg2ImgPipeline.from_pipe(pipeline)  # doctest: +SKIP
    >>> pipeline("a blue star", image=picture, strength=0.7)  # doctest: +SKIP
    """

    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: PipelineImageInput | None = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Makes images of each prompt from an image.

        Args:
            prompt: one or several.
            image: one, or one an image that is made.
            strength: share of the steps that are taken, and so how far the result may leave the image: above 0; 1
                begins at noise alone.
            height: of the images, in pixels; None is the image's own.
            width: of the images, in pixels; None is the image's own.
            options: as `SemanticRoutingPipeline` takes them; `latents` is the noise.

        Raises:
            ValueError: there is no image, or an option is impossible.
        """
        if image is None:
            raise ValueError("There is no image to begin with: give image.")
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, not {strength}.")
        self._strength, self._image = strength, self.image_processor.preprocess(image, height, width)
        height, width = self._image.shape[-2:]
        return super().__call__(prompt, height=height, width=width, **options)

    def _begin(self, noise: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> tuple[Tensor, Tensor]:
        """The image under the noise of the first step that is taken, and the timesteps from there."""
        image, images = self._image.to(noise.device, torch.float32), len(noise)
        if images % len(image):
            raise ValueError(f"Got {len(image)} images to begin with for {images} to make; pass one, or one each.")
        fresh = torch.Generator()
        fresh.seed()
        draws = generator if isinstance(generator, list) else [generator or fresh] * images
        self._clean = clean = self.codec.encode(image.repeat_interleave(images // len(image), dim=0), draws).to(noise)
        timesteps, order = self.scheduler.timesteps, self.scheduler.order
        steps = -(-len(timesteps) // order)
        first = order * (steps - max(1, int(steps * self._strength)))
        self.scheduler.set_begin_index(first)
        return interpolate(clean, noise, timesteps[first].float().expand(images)), timesteps[first:]


# Where `DiffusionPipeline.from_pretrained` looks for the class that a folder names.
diffusers.SemanticRoutingImg2ImgPipeline = SemanticRoutingImg2ImgPipeline
