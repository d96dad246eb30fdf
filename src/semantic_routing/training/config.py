"""What a run is: a YAML file, checked. Unknown keys and impossible values are errors that name the key's path."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ..data.config import AnySource, DataConfig
from ..data.latents import LatentsSource
from ..flow_config import FlowConfig
from ..io.config_files import read_config
from ..io.precision import AutoPrecision
from ..io.section import Section, check_section
from ..io.user_code import import_user_code
from ..models.config import ModelConfig, VAEConfig
from ..pipelines.saved import PAPER_GUIDANCE, PAPER_STEPS
from ..text.config import TextConfig

Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]

MOST_STEPS = 1_000_000_000
LARGEST_SEED = 2**63 - 1


class OptimizerConfig(Section):
    """AdamW, or Muon with it, and the schedule of learning rates."""

    learning_rate: PositiveFloat = Field(1e-4, description="of AdamW, at its highest")
    muon_learning_rate: PositiveFloat | None = Field(
        None, description="of attention's and MLP's matrices, then trained by Muon; None leaves them to AdamW"
    )
    fusion_learning_rate: PositiveFloat | None = Field(
        None, description="of the fusion's parameters, by AdamW without decay; None takes learning_rate"
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="AdamW's decay of the gradient's mean and square")
    weight_decay: NonNegativeFloat = Field(
        1e-4, description="of all parameters but the fusion's, times the learning rate each step"
    )
    max_grad_norm: PositiveFloat = Field(1.0, description="gradients are scaled down to this norm")
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "constant", description="of the learning rates; linear and cosine end at 0, and all but constant warm up"
    )
    warmup_steps: NonNegativeInt = Field(0, le=MOST_STEPS, description="steps in which learning rates rise from 0")


class TrainingConfig(Section):
    """The loop."""

    output: Path = Field(description="the run's folder")
    steps: PositiveInt = Field(le=MOST_STEPS, description="optimizer steps of the whole run")
    batch_size: PositiveInt = Field(
        le=10_000_000, description="examples an optimizer step, over all processes and accumulation"
    )
    initialize_from: str | None = Field(None, description="pipeline whose transformer to train further")
    initialize: Literal["transformer", "backbone"] = Field(
        "transformer",
        description="what initialize_from gives: the whole transformer, or all but the fusion and text channels of "
        "another number",
    )
    lora_rank: NonNegativeInt = Field(
        0, le=65_536, description="of LoRAs on attention, which alone are trained then; 0 trains all weights"
    )
    gradient_accumulation: PositiveInt = Field(
        1, le=1_000_000, description="parts that a batch is computed in, to need less memory"
    )
    seed: NonNegativeInt = Field(
        0, le=LARGEST_SEED, description="of initial weights, order, crops, captions, timesteps and noise"
    )
    precision: AutoPrecision = Field(
        "float32",
        description="that the transformer and Muon compute in; its weights and the loss stay float32. auto is bfloat16 "
        "where this machine multiplies it fast, else float32",
    )
    fp8: bool = Field(False, description="multiply matrices of blocks in eight bits, by torchao, on GPUs that do so")
    gradient_checkpointing: bool = Field(
        False, description="compute blocks again in the backward pass, to need less memory"
    )
    freeze_fusion_after: Share | None = Field(
        None, description="share of the steps after which the fusion's parameters stay as they are; None trains them on"
    )
    attention_backend: str | None = Field(None, description="of diffusers, such as flash; None leaves its default")
    compile: bool = Field(False, description="torch.compile the repeated block")
    ema_decay: Decay = Field(0.9999, description="of the average of the weights; 0 follows the weights themselves")
    ema_device: Literal["cpu"] | None = Field(
        None, description="where the average is kept; cpu spares an accelerator's memory; None is beside the weights"
    )
    max_minutes: PositiveFloat | None = Field(None, description="stop with a checkpoint after this long")
    log_every: PositiveInt = Field(10, description="steps between lines of metrics.jsonl")
    checkpoint_every: PositiveInt = Field(1000, description="steps between checkpoints")
    checkpoint_form: Literal["whole", "sharded"] = Field(
        "whole", description="whole: one process gathers and writes; sharded: each process writes what it holds"
    )
    keep_checkpoints: PositiveInt = Field(2, description="newest checkpoints that are kept")
    trackers: list[str] = Field([], description="accelerate trackers beside metrics.jsonl: tensorboard, wandb, …")

    @field_validator("output", mode="before")
    @classmethod
    def _names_a_folder(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("expected the name of a folder")
        return value


class ValidationConfig(Section):
    """Images and losses of the EMA weights during training, and the exported pipeline's defaults of sampling."""

    every: NonNegativeInt = Field(0, description="steps between sample images; 0 makes none")
    prompts: list[str] = Field([], description="one sample image is made of each")
    num_inference_steps: PositiveInt = Field(PAPER_STEPS, le=10_000, description="Euler steps of sampling")
    guidance_scale: NonNegativeFloat = Field(
        PAPER_GUIDANCE, description="classifier-free guidance; 1 and below is none"
    )
    seed: NonNegativeInt = Field(
        0, le=LARGEST_SEED, description="image i starts from noise seed + i; of the held-out examples and their noise"
    )
    loss_every: NonNegativeInt = Field(0, description="steps between losses of held-out examples; 0 measures none")
    loss_examples: PositiveInt = Field(
        256, le=1_000_000, description="held-out examples, each at five noise levels: as many forward passes"
    )
    source: AnySource | None = Field(
        None,
        description="held-out examples, as data.source; None: of an endless source, what training does not draw",
    )
    width: PositiveInt | None = Field(None, le=16384, description="pixels; None is data.image_size")
    height: PositiveInt | None = Field(None, le=16384, description="pixels; None is data.image_size")

    @model_validator(mode="after")
    def _has_prompts(self) -> "ValidationConfig":
        if self.every and not self.prompts:
            raise ValueError(f"validation.every is {self.every}, but validation.prompts is empty")
        return self


def check_ahead(data: DataConfig) -> None:
    """Raises a ValueError where latents that are computed ahead cannot be what the config asks for."""
    for key in ("random_crop", "horizontal_flip"):
        if getattr(data, key):
            raise ValueError(
                f"data.{key} cannot be combined with latents computed ahead, which hold one center crop an image"
            )


class RunConfig(Section):
    """What every run has, whatever it trains."""

    imports: list[str] = Field(
        [], description="modules and .py files, relative to the config's, that register classes which it names"
    )
    data: DataConfig = Field(description="images and captions")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="optimizer and learning rates")
    training: TrainingConfig = Field(description="the loop")
    validation: ValidationConfig = Field(ValidationConfig(), description="sample images, and defaults of sampling")

    def to_yaml(self) -> str:
        """The resolved config, from which it can be read again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class Config(RunConfig):
    """A run of our own model."""

    model: ModelConfig = Field(description="the diffusion transformer")
    text: TextConfig = Field(description="the text encoder")
    vae: VAEConfig | None = Field(None, description="the autoencoder; None trains on pixels")
    flow: FlowConfig = Field(FlowConfig(), description="noise levels")

    @model_validator(mode="after")
    def _has_a_fusion_to_freeze(self) -> "Config":
        if self.training.freeze_fusion_after is not None and self.model.strategy is None:
            raise ValueError(
                f"training.freeze_fusion_after is {self.training.freeze_fusion_after:g}, but a model of kind "
                f"{self.model.kind} has no fusion"
            )
        return self

    @model_validator(mode="after")
    def _lora_has_a_model(self) -> "Config":
        training = self.training
        if training.lora_rank and (training.initialize_from is None or training.initialize != "transformer"):
            raise ValueError(
                f"training.lora_rank is {training.lora_rank}, but LoRAs are added to the whole transformer of a "
                "pipeline: name one by training.initialize_from, and leave training.initialize at transformer"
            )
        for key, value in (
            ("optimizer.muon_learning_rate", self.optimizer.muon_learning_rate),
            ("optimizer.fusion_learning_rate", self.optimizer.fusion_learning_rate),
            ("training.freeze_fusion_after", training.freeze_fusion_after),
        ):
            if training.lora_rank and value is not None:
                raise ValueError(f"{key} is {value:g}, but with training.lora_rank only LoRAs are trained, by AdamW")
        return self

    @model_validator(mode="after")
    def _pixels_fit_patches(self) -> "Config":
        if self.vae is None and self.data.image_size % self.model.patch_size:
            raise ValueError(
                f"data.image_size {self.data.image_size} is not a multiple of model.patch_size {self.model.patch_size}"
            )
        return self

    @model_validator(mode="after")
    def _latents_fit(self) -> "Config":
        if isinstance(self.data.source, LatentsSource):
            self.vae_ahead()
        return self

    def vae_ahead(self) -> VAEConfig:
        """The autoencoder of latents that are computed ahead; a ValueError where they cannot serve this run."""
        if self.vae is None:
            raise ValueError("latents computed ahead are an autoencoder's, and the config has no vae section")
        check_ahead(self.data)
        return self.vae


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a config with what it extends and imports, and checks it.

    Args:
        name: file, or preset such as `scenes/depth-wise`.
        overrides: dotted changes such as `training.steps=100`.

    Raises:
        ValueError: with one line that names each mistake by the path of its key, with the value seen.
    """
    path, values = read_config(name, overrides)
    imports = values.get("imports")
    if isinstance(imports, list) and all(isinstance(module, str) for module in imports):
        import_user_code(imports)
    return check_section(Config, values, str(path))
