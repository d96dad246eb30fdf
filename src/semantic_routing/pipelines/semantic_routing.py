"""Text to image with a semantically routed diffusion transformer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import CogView4LoraLoaderMixin
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..flow import guide, velocity
from ..fusion import LayerGains, check_scale, gains_of
from ..fusion.timestep_map import GateTime, TimestepMap
from ..io.files import write_text
from ..io.resources import resolve_pipeline
from ..models import (
    MODELS,
    DiffusionTransformer2DModel,
    FuseDiTTransformer2DModel,
    SemanticRoutingTransformer2DModel,
    TextContext,
)
from ..models.backbone import ContextOfState
from ..models.latents import LatentCodec
from ..text import TextEncoder
from ..text.encoder import PooledText, Reading
from ..text.places import stored_name
from .card import write_card
from .sampled_text import SampledText, given_features
from .saved import PAPER_GUIDANCE, PAPER_STEPS
from .schedule import accepts, check_scheduler, set_steps

StepCallback = Callable[["SemanticRoutingPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

# Lets `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)` find the class.
PIPELINE_FILE = '''"""The class of this pipeline, for `diffusers`."""

from semantic_routing.pipelines import SemanticRoutingPipeline  # noqa: F401
'''


# The mixin is one of several in `diffusers` that handle LoRAs of `transformer` alone; no line of it is of CogView.
class SemanticRoutingPipeline(DiffusionPipeline, CogView4LoraLoaderMixin):
    """Prompts in, images out.

    Args:
        transformer: the diffusion transformer.
        scheduler: a `FlowMatchEulerDiscreteScheduler`.
        text_encoder: a language model; None loads the one named `text_model`, and saves no copy with the pipeline. The
            pipeline keeps the layers that are read, see `semantic_routing.text.TextEncoder`.
        tokenizer: its tokenizer.
        vae: an `AutoencoderKL`; None where the transformer makes pixels.
        text_model: folder, hub name or `package:NAME` of the language model that the transformer was trained with. A
            folder is kept by its absolute path.
        text_layers: which of its layers the transformer reads, see `semantic_routing.text.resolve_layers`.
        instruction: text put before every prompt.
        chat_template: wrap prompts in the tokenizer's chat template.
        max_length: tokens after which a prompt is cut.
        last_layer: read the language model's last layer after its final norm ("normalized"), or before it ("raw").
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
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds"]

    def __init__(
        self,
        transformer: SemanticRoutingTransformer2DModel | FuseDiTTransformer2DModel,
        scheduler: SchedulerMixin,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        vae: AutoencoderKL | None = None,
        text_model: str | None = None,
        text_layers: str | int | Sequence[int] = "all",
        instruction: str = "",
        chat_template: bool = False,
        max_length: int = 512,
        last_layer: str = "normalized",
        timestep_map: Sequence[Sequence[float]] | None = None,
        default_num_inference_steps: int = PAPER_STEPS,
        default_guidance_scale: float = PAPER_GUIDANCE,
    ) -> None:
        super().__init__()
        self._saved_map = None if timestep_map is None else TimestepMap(timestep_map)
        self._text_encoder_is_named = text_encoder is None
        reading: Reading = {
            "layers": text_layers,
            "instruction": instruction,
            "chat_template": chat_template,
            "max_length": max_length,
            "last_layer": last_layer,
        }
        encoder = _prompt_encoder(transformer, text_encoder, tokenizer, text_model, reading)
        self.register_modules(
            transformer=transformer,
            scheduler=scheduler,
            text_encoder=encoder.model,
            tokenizer=encoder.tokenizer,
            vae=vae,
        )
        self.register_to_config(
            text_model=None if text_model is None else stored_name(text_model),
            text_layers=encoder.layers,
            instruction=instruction,
            chat_template=chat_template,
            max_length=max_length,
            last_layer=encoder.last_layer,
            timestep_map=timestep_map,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
        )
        if vae is not None and self.codec.channels != transformer.config.in_channels:
            raise ValueError(
                f"The autoencoder has {self.codec.channels} latent channels; "
                f"the transformer has {transformer.config.in_channels}."
            )
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.codec.downsampling)
        self._text_pool: PooledText | None = None

    @property
    def prompt_encoder(self) -> TextEncoder:
        """The language model and how prompts are put to it."""
        options = self.config
        encoder = self.transformer.prompt_encoder_class(
            self.text_encoder,
            self.tokenizer,
            layers=options.text_layers,
            instruction=options.instruction,
            chat_template=options.chat_template,
            max_length=options.max_length,
            last_layer=options.last_layer,
        )
        encoder.pooled = self._text_pool
        return encoder

    def use_text_pool(self, folder: Path, prompts: Sequence[str]) -> None:
        """From now on takes features of some prompts from a folder, which gets those that it lacks.

        Several pipelines that read the same layers of one language model share a folder; see `FeaturePool`.
        """
        encoder = self.prompt_encoder
        encoder.use_pool(folder, prompts)
        self._text_pool = encoder.pooled

    @property
    def codec(self) -> LatentCodec:
        """Between latents and images."""
        return LatentCodec(self.vae)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: object) -> "SemanticRoutingPipeline":
        """Opens a saved pipeline by folder or hub name; `demo` is the model that comes with the project."""
        pipeline: SemanticRoutingPipeline = super().from_pretrained(
            resolve_pipeline(str(pretrained_model_name_or_path)), **kwargs
        )
        return pipeline

    @classmethod
    def from_single_file(
        cls, pretrained_model_link_or_path: str | Path, config: str | Path, **kwargs: Any
    ) -> "SemanticRoutingPipeline":
        """A pipeline whose transformer comes from one file of weights, as peers in `diffusers` have it.

        Args:
            pretrained_model_link_or_path: a file, or the link of one on the hub.
            config: folder or hub name of a pipeline, which everything else comes from; or `demo`.
            kwargs: of `from_pretrained`, such as `dtype`.

        Raises:
            ValueError: there is no such file, or its weights are not of the pipeline's transformer.
            OSError: there is no such pipeline.
        """
        folder = resolve_pipeline(str(config))
        kinds = {kind.__name__: kind for kind in MODELS.values()}
        kind = kinds[cls.load_config(folder)["transformer"][1]]
        transformer = kind.from_single_file(pretrained_model_link_or_path, folder, "transformer", kwargs.get("dtype"))
        return cls.from_pretrained(folder, transformer=transformer, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: object) -> "SemanticRoutingPipeline":
        """A pipeline with the components of another; a language model that was loaded by its name stays a name."""
        made: SemanticRoutingPipeline = super().from_pipe(pipeline, **kwargs)
        named = getattr(pipeline, "_text_encoder_is_named", False)
        made._text_encoder_is_named = named and made.text_encoder is pipeline.text_encoder
        return made

    def save_pretrained(self, save_directory: str | Path, **kwargs: object) -> None:
        """Saves all components and a model card; a language model that was loaded by its name stays a name."""
        write_text(Path(save_directory) / "pipeline.py", PIPELINE_FILE)
        text = {"text_encoder": self.text_encoder, "tokenizer": self.tokenizer}
        if self._text_encoder_is_named:
            self.register_modules(text_encoder=None, tokenizer=None)
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.register_modules(**text)
        write_card(Path(save_directory))

    def _upload_folder(self, working_dir: str | Path, repo_id: str, *args: object, **kwargs: object) -> object:
        """What `push_to_hub` of `diffusers` ends with; its placeholder for a model card is replaced by ours."""
        write_card(Path(working_dir), repo_id)
        return super()._upload_folder(working_dir, repo_id, *args, **kwargs)

    @property
    def guidance_scale(self) -> float:
        """Of the call that runs; a callback may change it by `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether steps are guided."""
        return self._guidance_scale > 1

    @property
    def attention_kwargs(self) -> dict[str, float] | None:
        """Of the call that runs."""
        return self._attention_kwargs

    @property
    def num_timesteps(self) -> int:
        """Evaluations of the transformer in the call that runs."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Of the step that runs; None between calls."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are left out; a callback sets `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | list[str],
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Hidden states of all layers of the prompts, for the arguments of a call that are named as the results.

        Args:
            prompt: one or several.
            do_classifier_free_guidance: encode the negative prompt as well.
            negative_prompt: one for all or one a prompt; default the empty prompt.
            num_images_per_prompt: times that each prompt is repeated.
            device: default: where the pipeline runs.

        Returns:
            prompt_embeds, `prompts layers text_tokens text_channels`; prompt_attention_mask, `prompts text_tokens`; and
            negative_prompt_embeds and negative_prompt_attention_mask, None without guidance.

        Raises:
            ValueError: there is no prompt, or another number of negative prompts.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        groups = [prompts, self._negatives(negative_prompt, len(prompts))] if do_classifier_free_guidance else [prompts]
        encoded: list[Tensor | None] = []
        for group in groups:
            features = self.prompt_encoder(group).to(device or self._execution_device, self.transformer.dtype)
            encoded += [tensor.repeat_interleave(num_images_per_prompt, dim=0) for tensor in features]
        embeds, mask, *negative = encoded
        return (embeds, mask, *(negative or (None, None)))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
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
        fusion_scale: float = 1.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        sigmas: Sequence[float] | None = None,
        prompt_embeds: Float[Tensor, "prompts layers text_tokens text_channels"] | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Float[Tensor, "prompts layers negative_tokens text_channels"] | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        attention_kwargs: dict[str, float] | None = None,
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
                the steps amplify to about 1e-6 in float32 and to several per cent in bfloat16. Schedulers that add
                noise draw it from there too.
            latents: the starting noise, in place of a generator's.
            timestep_map: the time that the fusion sees at each timestep, e.g. the paper's eq. 11; None is the
                pipeline's own map, where one was saved with it.
            layer_gains: factors of language-model layers by their numbers, such as {3: 0, 5: 2}, in every block or in
                one, see `fusion.LayerGains`; a token's context stays as large as without them.
            fusion_scale: how far fusion weights lie from the plain mean of layers: 1 is as trained, 0 the plain mean,
                more than 1 exaggerates, see `fusion.check_scale`.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: return an `ImagePipelineOutput`, else a tuple.
            callback_on_step_end: called with (pipeline, step, timestep, tensors) and may return changed tensors.
            callback_on_step_end_tensor_inputs: names of the tensors that the callback gets.
            sigmas: noise levels of the steps, from 1 down, in place of `num_inference_steps`.
            prompt_embeds: hidden states of the prompts from `encode_prompt`, in place of `prompt`.
            prompt_attention_mask: 1 for their real tokens; None where all are.
            negative_prompt_embeds: the same of negative prompts, one a prompt.
            negative_prompt_attention_mask: the same.
            attention_kwargs: `{"scale": s}` sets the strength of LoRA adapters.

        Raises:
            ValueError: an impossible option, or prompts, sizes, generators or latents that do not go together.
        """
        steps = self.config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.default_guidance_scale if guidance_scale is None else guidance_scale
        self._check_options(steps, num_images_per_prompt, output_type, callback_on_step_end_tensor_inputs)
        check_scheduler(self.scheduler)
        gains = self._gains(layer_gains)
        check_scale(fusion_scale, getattr(self.transformer, "fusion", None))
        self._guidance_scale, self._attention_kwargs, self._interrupt = scale, attention_kwargs, False
        device = self._execution_device
        given = given_features(self.transformer, prompt, prompt_embeds, prompt_attention_mask)
        negative = given_features(
            self.transformer, negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask, "negative_prompt"
        )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        count = len(prompts) if given is None else len(given.mask)
        shape = self._latent_shape(count * num_images_per_prompt, height, width)
        if negative is not None and len(negative.mask) != count:
            raise ValueError(f"Got negative_prompt_embeds of {len(negative.mask)} prompts for {count}; pass one each.")
        negatives = self._negatives(negative_prompt, count) if negative is None else negative
        latents = self._prepare_latents(shape, latents, generator, device)
        text = SampledText.of(
            self.prompt_encoder, given or prompts, negatives if self.do_classifier_free_guidance else None,
            num_images_per_prompt,
        )  # fmt: skip
        text.prepare(self.transformer, device, gains, fusion_scale)
        set_steps(self.scheduler, steps, sigmas, device)
        latents, timesteps = self._begin(latents, generator)
        gate_time = timestep_map or self._saved_map or (lambda timestep: timestep)
        latents = self._denoise(
            latents, timesteps, text, gate_time, generator, callback_on_step_end, callback_on_step_end_tensor_inputs
        )
        images: Any = latents
        if output_type != "latent":
            images = self.image_processor.postprocess(self.codec.decode(latents).float(), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _begin(self, noise: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> tuple[Tensor, Tensor]:
        """What the first step begins with, and the timesteps of all steps."""
        return noise, self.scheduler.timesteps

    def _denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: SampledText,
        gate_time: GateTime,
        generator: torch.Generator | list[torch.Generator] | None,
        callback: StepCallback | None,
        tensor_inputs: Sequence[str],
    ) -> Tensor:
        """Goes the steps of the scheduler at `timesteps`."""
        order, dtype = self.scheduler.order, self.transformer.dtype  # which looks through all modules
        self._num_timesteps = len(timesteps)
        lora_scale = (self.attention_kwargs or {}).get("scale", 1.0)
        noise = {"generator": generator} if accepts(self.scheduler.step, "generator") else {}
        with self.progress_bar(total=-(-len(timesteps) // order)) as progress:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                context = text.context(self.transformer, gate_time(timestep[None].float()), lora_scale)
                flow = self._flow(latents, timestep.float(), context, step, dtype)
                latents = self.scheduler.step(flow, timestep, latents, return_dict=False, **noise)[0]
                if callback is not None:
                    latents = self._call_back(callback, step, timestep, latents, text, tensor_inputs)
                if (step + 1) % order == 0 or step == len(timesteps) - 1:
                    progress.update()
        self._current_timestep = None
        return latents

    def _flow(
        self, latents: Tensor, timestep: Tensor, context: TextContext | ContextOfState, step: int, dtype: torch.dtype
    ) -> Tensor:
        """The velocity at a timestep, guided if guidance is on."""
        guided = self.do_classifier_free_guidance
        noisy = torch.cat([latents, latents]) if guided else latents
        times = timestep.expand(len(noisy))
        place = {"step_index": step, "sigma": timestep / 1000, "num_inference_steps": self.num_timesteps}
        with self.transformer.cache_context("all_rows", **place):
            output = self.transformer(
                noisy.to(dtype), times, text_context=context, attention_kwargs=self.attention_kwargs
            ).sample
        flow = velocity(output, noisy, times, self.transformer.config.prediction)
        if not guided:
            return flow
        unconditional, conditional = flow.chunk(2)
        return guide(unconditional, conditional, self.guidance_scale)

    def _call_back(
        self,
        callback: StepCallback,
        step: int,
        timestep: Tensor,
        latents: Tensor,
        text: SampledText,
        tensor_inputs: Sequence[str],
    ) -> Tensor:
        """Shows a callback the tensors that it asked for, and takes what it changed."""
        tensors = {"latents": lambda: latents, "prompt_embeds": text.embeds}
        changed = callback(self, step, timestep, {name: tensors[name]() for name in tensor_inputs}) or {}
        if not self.do_classifier_free_guidance:
            text.drop_negatives(len(latents))
        if "prompt_embeds" in changed:
            text.replace(self.transformer, changed["prompt_embeds"])
        return changed.get("latents", latents)

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


# Where `DiffusionPipeline.from_pretrained` looks for the class that a folder names.
diffusers.SemanticRoutingPipeline = SemanticRoutingPipeline


def _prompt_encoder(
    transformer: DiffusionTransformer2DModel,
    text_encoder: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    text_model: str | None,
    reading: Reading,
) -> TextEncoder:
    """The language model that a pipeline is given, or else loads by its name."""
    if text_encoder is not None:
        if tokenizer is None:
            raise ValueError("The pipeline has a text_encoder but no tokenizer to go with it.")
        encoder = transformer.prompt_encoder_class(text_encoder, tokenizer, **reading)
    elif text_model is not None:
        encoder = transformer.prompt_encoder_class.load(text_model, transformer.dtype, **reading)
    else:
        raise ValueError("The pipeline needs a text_encoder, or a text_model that names one; both are None.")
    check_text_encoder(encoder, transformer)
    return encoder


def check_text_encoder(encoder: TextEncoder, transformer: DiffusionTransformer2DModel) -> None:
    """Refuses a language model that does not give what the transformer reads."""
    seen = (len(encoder.layers), encoder.num_channels)
    wanted = (transformer.config.num_text_layers, transformer.config.text_channels)
    if seen != wanted:
        raise ValueError(
            f"The text encoder gives {seen[0]} layers of {seen[1]} channels; "
            f"the transformer reads {wanted[0]} layers of {wanted[1]} channels."
        )
