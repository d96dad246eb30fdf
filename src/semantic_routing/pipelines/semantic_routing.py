"""Text to image with a semantically routed diffusion transformer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from ..flow import guide, velocity
from ..fusion import LayerGains, gains_of
from ..fusion.timestep_map import GateTime, TimestepMap
from ..io.resources import resolve_pipeline
from ..models import DiffusionTransformer2DModel, SemanticRoutingTransformer2DModel, TextContext
from ..models.backbone import ContextOfState
from ..models.latents import LatentCodec
from ..text import TextEncoder, load_language_model, load_tokenizer

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class SemanticRoutingPipeline(DiffusionPipeline):
    """Prompts in, images out.

    Args:
        transformer: the diffusion transformer.
        scheduler: a `FlowMatchEulerDiscreteScheduler`.
        text_encoder: a language model; None loads the one named `text_model`, and saves no copy with the pipeline.
        tokenizer: its tokenizer.
        vae: an `AutoencoderKL`; None where the transformer makes pixels.
        text_model: folder, hub name or `package:NAME` of the language model that the transformer was trained with.
        text_layers: which of its layers the transformer reads, see `semantic_routing.text.resolve_layers`.
        instruction: text put before every prompt.
        chat_template: wrap prompts in the tokenizer's chat template.
        max_length: tokens after which a prompt is cut.
        timestep_map: points [timestep, gate timestep] of a `fusion.timestep_map.TimestepMap`: the time that the
            fusion sees in sampling, unless a call says otherwise; None is the timestep itself.
        default_num_inference_steps: of calls that do not say; the default of the default is the paper's.
        default_guidance_scale: the same for the scale of guidance.

    Raises:
        ValueError: the language model does not have the layers or the width that the transformer reads, or the
            autoencoder not its channels.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer", "vae"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(
        self,
        transformer: DiffusionTransformer2DModel,
        scheduler: Any,
        text_encoder: Any | None = None,
        tokenizer: Any | None = None,
        vae: Any | None = None,
        text_model: str | None = None,
        text_layers: str | int | Sequence[int] = "all",
        instruction: str = "",
        chat_template: bool = False,
        max_length: int = 512,
        timestep_map: Sequence[Sequence[float]] | None = None,
        default_num_inference_steps: int = 50,
        default_guidance_scale: float = 6.0,
    ) -> None:
        super().__init__()
        self._saved_map = None if timestep_map is None else TimestepMap(timestep_map)
        self._text_encoder_is_named = text_encoder is None
        if text_encoder is None:
            if text_model is None:
                raise ValueError("The pipeline needs a text_encoder, or a text_model that names one; both are None.")
            text_encoder = load_language_model(text_model, transformer.dtype)
            tokenizer = load_tokenizer(text_model)
        self.register_modules(
            transformer=transformer, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer, vae=vae
        )
        self.register_to_config(
            text_model=text_model,
            text_layers=text_layers,
            instruction=instruction,
            chat_template=chat_template,
            max_length=max_length,
            timestep_map=timestep_map,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
        )
        check_text_encoder(self.prompt_encoder, transformer)
        if vae is not None and self.codec.channels != transformer.config.in_channels:
            raise ValueError(
                f"The autoencoder has {self.codec.channels} latent channels; "
                f"the transformer has {transformer.config.in_channels}."
            )
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.codec.downsampling)

    @property
    def prompt_encoder(self) -> TextEncoder:
        """The language model and how prompts are put to it."""
        options = self.config
        return self.transformer.prompt_encoder_class(
            self.text_encoder,
            self.tokenizer,
            layers=options.text_layers,
            instruction=options.instruction,
            chat_template=options.chat_template,
            max_length=options.max_length,
        )

    @property
    def codec(self) -> LatentCodec:
        """Between latents and images."""
        return LatentCodec(self.vae)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "SemanticRoutingPipeline":
        """Opens a saved pipeline by folder or hub name; `demo` is the model that comes with the project."""
        pipeline: SemanticRoutingPipeline = super().from_pretrained(
            resolve_pipeline(str(pretrained_model_name_or_path)), **kwargs
        )
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves all components; a language model that was loaded by its name stays a name."""
        if not self._text_encoder_is_named:
            super().save_pretrained(save_directory, **kwargs)
            return
        text = {"text_encoder": self.text_encoder, "tokenizer": self.tokenizer}
        self.register_modules(text_encoder=None, tokenizer=None)
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.register_modules(**text)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Float[Tensor, "images channels latent_height latent_width"] | None = None,
        timestep_map: GateTime | None = None,
        layer_gains: LayerGains | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Makes `num_images_per_prompt` images of each prompt; images of one prompt are neighbors.

        Args:
            prompt: one or several.
            negative_prompt: what guidance moves away from, one for all or one a prompt; default the empty prompt.
            height: of the images, in pixels.
            width: of the images, in pixels.
            num_inference_steps: steps of the scheduler; None is the pipeline's own number.
            guidance_scale: classifier-free guidance; at 1 or below it is off and costs nothing; None is the pipeline's
                own scale.
            num_images_per_prompt: images a prompt.
            generator: one, or one an image: then an image depends on the others of its batch only by rounding, which
                the steps amplify to about 1e-6 in float32 and to several per cent in bfloat16.
            latents: the starting noise, in place of a generator's.
            timestep_map: the time that the fusion sees at each timestep, e.g. the paper's eq. 11; None is the
                pipeline's own map, where one was saved with it.
            layer_gains: factors of language-model layers by their numbers, such as {3: 0, 5: 2}, in every block or in
                one, see `fusion.LayerGains`; a token's context stays as large as without them.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: return an `ImagePipelineOutput`, else a tuple.
            callback_on_step_end: called with (pipeline, step, timestep, tensors) and may return changed tensors.
            callback_on_step_end_tensor_inputs: names of the tensors that the callback gets.

        Raises:
            ValueError: an impossible option, or prompts, sizes, generators or latents that do not go together.
        """
        if num_inference_steps is None:
            num_inference_steps = self.config.default_num_inference_steps
        if guidance_scale is None:
            guidance_scale = self.config.default_guidance_scale
        self._check_options(num_inference_steps, num_images_per_prompt, output_type, callback_on_step_end_tensor_inputs)
        gains = self._gains(layer_gains)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = self._negatives(negative_prompt, len(prompts))
        num_images = len(prompts) * num_images_per_prompt
        shape = self._latent_shape(num_images, height, width)
        device = self._execution_device
        guided = guidance_scale > 1
        gate_time = timestep_map or self._saved_map or (lambda timestep: timestep)

        texts = [text for text in (negatives if guided else []) + prompts for _ in range(num_images_per_prompt)]
        distinct = list(dict.fromkeys(texts))
        rows = torch.tensor([distinct.index(text) for text in texts], device=device)
        features = self.prompt_encoder(distinct).to(device, self.transformer.dtype)
        prepared = self.transformer.prepare_text(*features, reused=True)
        if gains is not None:
            prepared = prepared._replace(gains=gains.to(device))
        latents = self._prepare_latents(shape, latents, generator, device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        context: TextContext | ContextOfState | None = None

        with self.progress_bar(total=num_inference_steps) as progress:
            for step, timestep in enumerate(self.scheduler.timesteps):
                if context is None or "timestep" in self.transformer.varies_with:
                    now = gate_time(timestep[None])
                    context = self.transformer.text_context(prepared, now, cache=True).rows(rows)
                noisy = torch.cat([latents, latents]) if guided else latents
                times = timestep.expand(len(noisy))
                with self.transformer.cache_context("all_rows"):
                    output = self.transformer(noisy.to(self.transformer.dtype), times, text_context=context).sample
                flow = velocity(output, noisy, times, self.transformer.config.prediction)
                if guided:
                    unconditional, conditional = flow.chunk(2)
                    flow = guide(unconditional, conditional, guidance_scale)
                latents = self.scheduler.step(flow, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = {"latents": latents}
                    known = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    latents = callback_on_step_end(self, step, timestep, known).get("latents", latents)
                progress.update()

        images: Any = latents
        if output_type != "latent":
            images = self.image_processor.postprocess(self.codec.decode(latents).float(), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check_options(
        self, num_inference_steps: int, num_images_per_prompt: int, output_type: str, tensor_inputs: Sequence[str]
    ) -> None:
        counts = {"num_inference_steps": num_inference_steps, "num_images_per_prompt": num_images_per_prompt}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be 1 or more, not {count}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"Unknown output_type {output_type!r}: expected one of {', '.join(OUTPUT_TYPES)}.")
        for name in tensor_inputs:
            if name not in self._callback_tensor_inputs:
                known = ", ".join(self._callback_tensor_inputs)
                raise ValueError(f"A callback cannot be given {name!r}: expected one of {known}.")

    def _gains(self, layer_gains: LayerGains | None) -> Float[Tensor, "blocks layers"] | None:
        if layer_gains is None:
            return None
        if not isinstance(self.transformer, SemanticRoutingTransformer2DModel):
            raise ValueError("layer_gains set how much a fusion takes of each layer, and this transformer has none.")
        return gains_of(layer_gains, self.prompt_encoder.layers, self.transformer.config.num_blocks)

    def _negatives(self, negative_prompt: str | list[str] | None, count: int) -> list[str]:
        if negative_prompt is None or isinstance(negative_prompt, str):
            return [negative_prompt or ""] * count
        if len(negative_prompt) != count:
            raise ValueError(f"Got {len(negative_prompt)} negative prompts for {count} prompts; pass one, or one each.")
        return list(negative_prompt)

    def _latent_shape(self, num_images: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        config, unit = self.transformer.config, self.codec.downsampling
        sides = [config.sample_size * unit if side is None else side for side in (height, width)]
        for side in sides:
            if side < 1 or side % (unit * config.patch_size):
                raise ValueError(f"Image sides must be multiples of {unit * config.patch_size}, not {side}.")
        return num_images, config.in_channels, sides[0] // unit, sides[1] // unit

    def _prepare_latents(
        self,
        shape: tuple[int, int, int, int],
        latents: Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> Tensor:
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"Got {len(generator)} generators for {shape[0]} images; pass one, or one an image.")
        if latents is not None and latents.shape != shape:
            raise ValueError(f"Latents have shape {tuple(latents.shape)}; these prompts and sizes need {shape}.")
        # float32 throughout sampling: fifty small steps added up in half precision would lose their ends.
        if latents is None:
            return randn_tensor(shape, generator, device, torch.float32)
        return latents.to(device, torch.float32)


def check_text_encoder(encoder: TextEncoder, transformer: DiffusionTransformer2DModel) -> None:
    """Refuses a language model that does not give what the transformer reads."""
    seen = (len(encoder.layers), encoder.num_channels)
    wanted = (transformer.config.num_text_layers, transformer.config.text_channels)
    if seen != wanted:
        raise ValueError(
            f"The text encoder gives {seen[0]} layers of {seen[1]} channels; "
            f"the transformer reads {wanted[0]} layers of {wanted[1]} channels."
        )
