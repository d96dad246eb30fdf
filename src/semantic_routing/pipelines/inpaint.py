"""Inpainting: a part of an image is made anew, and the rest of it stays."""

from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import ImagePipelineOutput
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from torch import Tensor

from ..flow import interpolate
from .image_to_image import SemanticRoutingImg2ImgPipeline
from .semantic_routing import StepCallback


class SemanticRoutingInpaintPipeline(SemanticRoutingImg2ImgPipeline):
    """Images, masks and prompts in, images out; it has the components of `SemanticRoutingPipeline`.

    After each step, latents outside of the mask are those of the image under the noise of the next step, and at the end
    those of the image itself.

    >>> pipeline = SemanticRoutingInpaintPipeline.from_pipe(pipeline)  # doctest: +SKIP
    >>> pipeline("a blue star", image=picture, mask_image=mask, strength=1.0)  # doctest: +SKIP
    """

    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: PipelineImageInput | None = None,
        mask_image: PipelineImageInput | None = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Makes images of each prompt from an image, and only where a mask is white.

        Args:
            prompt: one or several.
            image: one, or one an image that is made.
            mask_image: white where the image is made anew, black where it stays; one, or one an image that is made.
            strength: share of the steps that are taken, and so how far the new part may leave the image: above 0; 1
                begins at noise alone.
            height: of the images, in pixels; None is the image's own.
            width: of the images, in pixels; None is the image's own.
            callback_on_step_end: as `SemanticRoutingPipeline` takes it; it sees latents with the image put back.
            options: as `SemanticRoutingPipeline` takes them; `latents` is the noise.

        Raises:
            ValueError: there is no image or mask, or an option is impossible.
        """
        if mask_image is None:
            raise ValueError("There is no mask: give mask_image, which says which part of the image is made anew.")
        self._mask_image = mask_image

        def put_back(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            latents = self._put_back(tensors["latents"], step)
            changed = None
            if callback_on_step_end is not None:
                changed = callback_on_step_end(pipe, step, timestep, tensors | {"latents": latents})
            return {"latents": latents, **(changed or {})}

        names = options.pop("callback_on_step_end_tensor_inputs", ("latents",))
        options["callback_on_step_end_tensor_inputs"] = list(dict.fromkeys(("latents", *names)))
        return super().__call__(prompt, image, strength, height, width, callback_on_step_end=put_back, **options)

    def _begin(self, noise: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> tuple[Tensor, Tensor]:
        """As image to image, and what is put back after each step."""
        height, width = self._image.shape[-2:]
        processor = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
        mask = processor.preprocess(self._mask_image, height, width).to(noise)
        if len(noise) % len(mask):
            raise ValueError(f"Got {len(mask)} masks for {len(noise)} images to make; pass one, or one each.")
        mask = mask.repeat_interleave(len(noise) // len(mask), dim=0)
        self._mask = F.interpolate(mask, noise.shape[-2:], mode="nearest")
        latents, timesteps = super()._begin(noise, generator)
        self._noise, self._left = noise, [*timesteps.float()[1:], torch.zeros(())]
        return latents, timesteps

    def _put_back(self, latents: Tensor, step: int) -> Tensor:
        """Latents with the image, under the noise of the next step, outside of the mask."""
        timestep = self._left[step].to(latents.device).expand(len(latents))
        kept = interpolate(self._clean, self._noise, timestep)
        return self._mask * latents + (1 - self._mask) * kept


# Where `DiffusionPipeline.from_pretrained` looks for the class that a folder names.
diffusers.SemanticRoutingInpaintPipeline = SemanticRoutingInpaintPipeline
