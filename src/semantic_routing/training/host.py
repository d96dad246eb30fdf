"""Trains a fusion in a host, on the one loop; the model, the text and the loss of a batch are the host's own."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ..adapters import Routing, add_routing, find_routing, save_routing
from ..adapters.remember import remember
from ..adapters.run import HostRun, load_host
from ..adapters.saving import digest
from ..data import Batch, ExampleStream, LatentsSource, Source
from ..io.files import JsonObject
from ..models.config import VAEConfig
from ..models.latents import LatentCodec, PosteriorCodec
from ..pipelines.schedule import accepts
from .build import codec_ahead, describe_autoencoder
from .checkpoint import read_weights
from .config import ValidationConfig
from .host_config import AdaptConfig
from .lora import add_lora
from .noising import FlowNoising, make_noising
from .subject import Subject, generators
from .trainer import Trainer


def adapt(config: AdaptConfig, resume: str | None = None) -> Path:
    """Trains in a host, and returns the run's folder, which then holds what was trained, with averaged weights.

    That is `routing` for `load_routing`, `lora` for the model's `load_lora_adapter`, and `model` for its
    `from_pretrained`, each where it was trained.

    Args:
        config: the run.
        resume: "latest" or a checkpoint's folder; the continuation is the one that an uninterrupted run would have had.

    Raises:
        ValueError: the config cannot be run; raised before any work.
        NonFiniteLossError: the loss became infinite or not a number.
    """
    trainer = Trainer(config, lambda accelerator, source: HostSubject(config, accelerator), resume)
    checkpoint = trainer.run()
    subject = trainer.subject
    if trainer.accelerator.is_main_process and isinstance(subject, HostSubject):
        subject.save(checkpoint, config.training.output)
    trainer.accelerator.wait_for_everyone()
    return config.training.output


class HostModule(nn.Module):
    """A host and its fusion, which only hooks join, as one module. It is called as the host is."""

    def __init__(self, host: nn.Module, fusion: Routing | None) -> None:
        super().__init__()
        self.host = host
        self.fusion = fusion

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's output."""
        return self.host(*args, **kwargs)


class HostSubject(Subject):
    """A host of which the fusion, LoRAs or its own weights are trained.

    Args:
        config: the run.
        accelerator: where it runs.

    Raises:
        ValueError: the pipeline is no host, or its scheduler is of no kind that can be trained for.
    """

    def __init__(self, config: AdaptConfig, accelerator: Accelerator) -> None:
        self.config = config
        self.device = accelerator.device
        self.pipe = load_host(config.host.pipeline, config.host.dtype).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.run = HostRun(self.pipe, config.data.image_size, config.host.options)
        self.transformer, encoder, self.host, self.codec = (
            self.run.model, self.run.encoder, self.run.host, self.run.codec,
        )  # fmt: skip
        self.images_to_latents = self._codec()
        self.noising = make_noising(self.pipe.scheduler, config.flow)
        for module in (self.transformer, encoder, self.pipe.vae):
            if module is not None:
                module.requires_grad_(False)
        if config.host.text_cache:
            remember(encoder, config.host.text_cache)
        fusion = None
        if config.host.fusion is not None:
            add_routing(self.pipe, config.host.fusion, config.host.layers, **config.host.fusion_options)
            fusion = find_routing(self.pipe)
        self._choose_trained()
        self.module = HostModule(self.transformer, fusion)

    def stream(self, source: Source) -> ExampleStream:
        """Square pictures.

        Raises:
            ValueError: buckets are asked for.
        """
        data = self.config.data
        if data.buckets is not None:
            raise ValueError(f"data.buckets is {data.buckets!r}, but hosts are trained on squares: leave it out.")
        return ExampleStream(
            source,
            data.image_size,
            self.config.training.seed,
            data.caption_dropout,
            data.random_crop,
            data.horizontal_flip,
            data.original_caption_rate,
            window=data.shuffle_window,
        )

    def _codec(self) -> LatentCodec | PosteriorCodec:
        """What makes latents of images, or of what was computed of them ahead."""
        source, options = self.config.data.source, self.config.host
        if not isinstance(source, LatentsSource):
            return self.codec
        if not isinstance(self.pipe.vae, AutoencoderKL):
            raise ValueError(
                f"data.source latents are of an AutoencoderKL, and the host has {type(self.pipe.vae).__name__}."
            )
        vae = VAEConfig(model=options.pipeline, subfolder="vae", dtype=options.dtype)
        return codec_ahead(source, describe_autoencoder(vae, self.config.training.precision))

    def _choose_trained(self) -> None:
        """Adds LoRAs, or sets free what of the host's own weights is trained."""
        options = self.config.host
        if options.lora_rank:
            add_lora(self.transformer, options.lora_rank)
        elif options.trained == "all":
            self.transformer.requires_grad_(True)
        elif options.trained == "text":
            for module in (*self.host.text_blocks(self.transformer), *self.host.projections(self.transformer)):
                module.requires_grad_(True)

    def architecture(self) -> JsonObject:
        """What the trained weights belong to."""
        options = self.config.host.model_dump(mode="json", include={"fusion", "fusion_options", "layers", "lora_rank"})
        host = {"model": type(self.transformer).__name__, "config": digest(self.transformer)}
        return host | options | {"trained": self.config.host.trained}

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """The loss of each example, by the host's own scheduler, and what the fusion adds to it."""
        draws = [torch.Generator().manual_seed(int(seed)) for seed in batch.noise_seeds]
        latents = self.images_to_latents.encode(batch.images.to(self.device), draws).float()
        call = self.run.call(batch.captions)
        latents = self.run.packed(latents, call)
        timestep, noise = self.noising.draw(draws).to(self.device), randn_tensor(latents.shape, draws, self.device)
        output = self.run.predict(call, self.noising.noisy(latents, noise, timestep), timestep, model)
        target = self.noising.target(latents, noise, timestep)
        if isinstance(self.noising, FlowNoising):
            target = self.run.velocity_sign * target
        losses = F.mse_loss(output.float(), target, reduction="none").flatten(1).mean(1)
        losses = losses * self.noising.weight(timestep)
        fusion = self.module.fusion
        auxiliary = fusion.fusion.auxiliary_loss() if isinstance(fusion, Routing) else None
        return losses if auxiliary is None else losses + auxiliary

    def images(self, options: ValidationConfig) -> list[Image.Image]:
        """An image of each validation prompt, by the host's own pipeline."""
        sizes = {**self.run.sides, "num_inference_steps": options.num_inference_steps}
        if accepts(type(self.pipe).__call__, "use_resolution_binning"):
            sizes["use_resolution_binning"] = False
        latents = self.pipe(
            prompt=options.prompts,
            guidance_scale=options.guidance_scale,
            generator=generators(options),
            output_type="latent",
            **sizes,
            **self.config.host.options,
        )[0]
        return [Image.fromarray(picture) for picture in self.run.pictures(latents)]

    def save(self, checkpoint: Path, folder: Path) -> None:
        """Writes what was trained, with the averaged weights of a checkpoint."""
        averages = read_weights(checkpoint, "ema", self.module)
        self.module.load_state_dict(averages, strict=False)  # frozen weights: not there
        if self.module.fusion is not None:
            save_routing(self.transformer, folder / "routing")
        if self.config.host.lora_rank:
            self.transformer.save_lora_adapter(folder / "lora")
        if self.config.host.trained != "nothing":
            self.transformer.save_pretrained(folder / "model")
