"""What a run trains, and all that the loop must know of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ..data import Batch, ExampleStream, Source
from ..io.files import JsonObject
from ..io.tensors import weights_digest
from ..text import TextEncoder
from .build import (
    build_codecs,
    build_pipeline,
    build_prompt_encoder,
    build_stream,
    build_transformer,
    copy_weights,
    resolve_sizes,
)
from .checkpoint import architecture
from .config import Config, ValidationConfig
from .lora import add_lora
from .step import batch_loss
from .validation_loss import ValidationLoss

# Bytes of captions' features that a process keeps on a CPU, where encoding small captions is a sixth of a step. A GPU's
# memory is better spent, and the captions of large data sets do not come again soon.
TEXT_MEMORY = 2**28


def generators(options: ValidationConfig) -> list[torch.Generator]:
    """One for each validation image."""
    return [torch.Generator().manual_seed(options.seed + number) for number in range(len(options.prompts))]


class Subject(ABC):
    """A model that learns.

    Parameters of its fusion have names in `module` that begin with `fusion.`.
    """

    module: nn.Module
    """Holds all that is trained; losses are computed by its forward pass."""
    transformer: Any
    """The model of `diffusers` in it, perhaps `module` itself."""

    @abstractmethod
    def architecture(self) -> JsonObject:
        """What a checkpoint must have been made with, to be loaded."""

    def initialize(self) -> None:  # noqa: B027 (most have nothing to do)
        """What is done once, before the first step of a run."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """The loss of each example.

        Args:
            model: `module`, perhaps wrapped for distributed training.
            batch: images and captions.
        """

    @abstractmethod
    def stream(self, source: Source) -> ExampleStream:
        """The examples that it learns from, in their order.

        Raises:
            ValueError: the source is not what the config wants of it.
        """

    def validation_loss(self, accelerator: Accelerator, batch_size: int) -> ValidationLoss:
        """What measures the loss of held-out examples.

        Args:
            accelerator: where it runs.
            batch_size: examples at a time and process.

        Raises:
            ValueError: the model has no such measure.
        """
        raise ValueError("validation.loss_every is set, but only our own models have a validation loss.")

    @abstractmethod
    def images(self, options: ValidationConfig) -> list[Image.Image]:
        """An image of each validation prompt."""


class OwnModel(Subject):
    """Our own diffusion transformer.

    Args:
        config: the run.
        accelerator: where it runs.
        source: of the data.
    """

    def __init__(self, config: Config, accelerator: Accelerator, source: Source) -> None:
        self.config = config
        self.device = accelerator.device
        self.sizes = resolve_sizes(config)
        self.module = self.transformer = build_transformer(config, self.sizes)
        if config.training.lora_rank:
            # Checkpoints do not hold what is not trained: it is read again by each process that goes on.
            self._take_over_weights()
            self.base = weights_digest(self.transformer)  # LoRAs belong to these weights alone
            add_lora(self.transformer, config.training.lora_rank)
        self.codec, decoder = build_codecs(config, self.device)
        # Features computed ahead leave the text encoder nothing to do but validation.
        self.encoder: TextEncoder | None = None
        if config.validation.every or config.validation.loss_every or not source.has_features:
            self.encoder = build_prompt_encoder(config, self.sizes, self.device)
            with accelerator.autocast():
                self._keep_features(self.encoder, source.all_captions)
            self.pipeline = build_pipeline(config, self.transformer, self.encoder, decoder)
            self.pipeline.set_progress_bar_config(disable=True)

    def _keep_features(self, encoder: TextEncoder, captions: Sequence[str] | None) -> None:
        """Lets the encoder take features from a folder; those of a source that knows all its captions are made now."""
        folder = self.config.text.cache
        if folder is not None and captions is None:
            encoder.use_cache(folder, self.config.text.cache_gib)
        elif folder is not None and captions is not None:
            encoder.use_pool(folder, captions)
        if self.device.type == "cpu":
            encoder.use_memory(TEXT_MEMORY)

    def stream(self, source: Source) -> ExampleStream:
        """See `build_stream`."""
        return build_stream(self.config, source, self.sizes)

    def architecture(self) -> JsonObject:
        """The transformer's configuration, and which weights LoRAs were added to."""
        found, rank = architecture(self.transformer), self.config.training.lora_rank
        return found | {"lora_rank": rank, "base_weights": self.base} if rank else found

    def initialize(self) -> None:
        """Takes over the weights of another pipeline, where the config names one."""
        if not self.config.training.lora_rank:  # has them
            self._take_over_weights()

    def _take_over_weights(self) -> None:
        options = self.config.training
        if options.initialize_from:
            copy_weights(options.initialize_from, self.transformer, options.initialize)

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """See `batch_loss`."""
        config = self.config
        dtype = getattr(torch, config.training.precision)
        return batch_loss(
            model, batch, self.encoder, self.codec, config.flow, config.model.prediction, self.device, dtype
        )

    def validation_loss(self, accelerator: Accelerator, batch_size: int) -> ValidationLoss:
        """See `ValidationLoss`."""
        assert self.encoder is not None, "loaded wherever there is validation"
        return ValidationLoss(self.config, self.encoder, self.codec, accelerator, batch_size)

    def images(self, options: ValidationConfig) -> list[Image.Image]:
        """An image of each validation prompt."""
        images: list[Image.Image] = self.pipeline(
            options.prompts,
            height=options.height,
            width=options.width,
            num_inference_steps=options.num_inference_steps,
            guidance_scale=options.guidance_scale,
            generator=generators(options),
            return_dict=False,
        )[0]
        return images
