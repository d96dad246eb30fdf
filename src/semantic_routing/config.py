"""What a run is: a YAML file, checked. Unknown keys and impossible values are errors that name the key's path."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from .data.latents import LatentsSource
from .data.sources import FolderSource, HuggingFaceSource, ScenesSource
from .flow import Prediction
from .io.resources import resource
from .models import TRANSFORMERS
from .models.timestep import TIMESTEP_CONDITIONINGS

Dtype = Literal["float32", "bfloat16", "float16"]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
SourceChoice = Annotated[ScenesSource | FolderSource | HuggingFaceSource | LatentsSource, Field(discriminator="source")]

# Of the folders in `configs`, those whose files are runs.
PRESET_FOLDERS = ("scenes", "paper")


class Section(BaseModel):
    """A part of the config."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The diffusion transformer; what follows from the text encoder is not repeated here."""

    strategy: str = Field(description="fusion strategy, or fusedit")
    num_blocks: PositiveInt = 24
    num_attention_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt = 8
    attention_head_dim: PositiveInt = 128
    hidden_size: PositiveInt = 2048
    patch_size: PositiveInt = 2
    mlp_ratio: PositiveFloat = 4.0
    timestep_conditioning: str = "none"
    prediction: Prediction = "velocity"
    position_embedding: Literal["rope", "sincos", "rope+sincos"] = "rope"
    rope_base: PositiveFloat = 10000.0
    sandwich_norm: bool = False
    norm_eps: PositiveFloat = 1e-6

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        return _one_of(value, TRANSFORMERS)

    @field_validator("timestep_conditioning")
    @classmethod
    def _known_conditioning(cls, value: str) -> str:
        return _one_of(value, TIMESTEP_CONDITIONINGS)


class TextConfig(Section):
    """The text encoder, which is not trained."""

    model: str = Field(description="folder, hub name, or package:NAME for a model that a Python package carries")
    layers: Literal["all"] | PositiveInt | list[int] = Field("all", description="all, last n, or indices")
    last_layer: Literal["normalized", "raw"] = Field(
        "normalized", description="read the language model's last layer after its final norm, or before it (raw)"
    )
    instruction: str = Field("", description="put before every caption, without a separator")
    chat_template: bool = Field(False, description="wrap captions as a user's message in the tokenizer's template")
    max_length: PositiveInt = Field(512, description="tokens, instruction included, after which captions are cut")
    dtype: Dtype = "float32"
    cache: Path | None = Field(None, description="folder that keeps features of captions; None keeps none")
    cache_gib: PositiveFloat = Field(4.0, description="size in GiB past which the features used longest ago go")
    num_hidden_layers: PositiveInt | None = Field(None, description="layers the model must have; None asks the model")
    hidden_size: PositiveInt | None = Field(None, description="channels the model must have; None asks the model")
    architecture: dict[str, Any] | None = Field(
        None, description="the rest of the model's transformers configuration, for costs and checks without the model"
    )


class VAEConfig(Section):
    """The autoencoder whose latents are denoised, which is not trained."""

    model: str = Field(description="folder or hub name of an AutoencoderKL")
    subfolder: str | None = None
    dtype: Dtype = "float32"
    latent_channels: PositiveInt | None = Field(None, description="channels it must have; None asks the model")
    downsampling: PositiveInt | None = Field(None, description="pixels a latent pixel; None asks the model")


class DataConfig(Section):
    """Images and captions."""

    source: SourceChoice
    image_size: PositiveInt = Field(description="pixels a side")
    caption_dropout: Share = Field(0.1, description="share of captions emptied for classifier-free guidance")
    original_caption_rate: Share = Field(0.0, description="share that keeps the caption which a newer one replaced")
    random_crop: bool = False
    horizontal_flip: bool = Field(False, description="makes captions with left and right wrong")
    num_workers: NonNegativeInt = Field(0, description="processes that load images; 0 loads in the training process")
    max_broken: Share = Field(0.01, description="share of broken examples past which the run stops")


class FlowConfig(Section):
    """Noise levels in training and what each counts, and the scheduler's shift."""

    timestep_mean: float = Field(0.0, description="of logit(sigma); above 0 trains noisier pictures more")
    timestep_std: PositiveFloat = 1.0
    weight_power: NonNegativeFloat = Field(
        0.0, description="losses are divided by sigma to this power; 2 makes the error of a sample that of its velocity"
    )
    shift: PositiveFloat = Field(1.0, description="of the sigma schedule, in training and sampling; 3 for SD3 latents")


class OptimizerConfig(Section):
    """AdamW, or Muon with it, and the schedule of learning rates."""

    learning_rate: PositiveFloat = 1e-4
    muon_learning_rate: PositiveFloat | None = Field(
        None, description="of attention's and MLP's matrices, then trained by Muon; none leaves them to AdamW"
    )
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-4
    max_grad_norm: PositiveFloat = 1.0
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0


class TrainingConfig(Section):
    """The loop."""

    output: Path = Field(description="the run's folder")
    steps: PositiveInt
    batch_size: PositiveInt = Field(description="examples an optimizer step, over all processes and accumulation")
    initialize_from: str | None = Field(None, description="pipeline whose transformer to train further")
    gradient_accumulation: PositiveInt = 1
    seed: NonNegativeInt = 0
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="that the transformer computes in; its weights and the loss stay float32"
    )
    gradient_checkpointing: bool = False
    attention_backend: str | None = Field(None, description="of diffusers, such as flash; None leaves its default")
    compile: bool = Field(False, description="torch.compile the repeated block")
    ema_decay: Decay = Field(0.9999, description="0 follows the weights themselves")
    max_minutes: PositiveFloat | None = Field(None, description="stop with a checkpoint after this long")
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 2
    trackers: list[str] = Field([], description="accelerate trackers beside metrics.jsonl: tensorboard, wandb, …")


class ValidationConfig(Section):
    """Images that the EMA weights make during training."""

    every: NonNegativeInt = Field(0, description="steps between sample images; 0 makes none")
    prompts: list[str] = []
    num_inference_steps: PositiveInt = 50
    guidance_scale: NonNegativeFloat = 6.0
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _has_prompts(self) -> "ValidationConfig":
        if self.every and not self.prompts:
            raise ValueError(f"validation.every is {self.every}, but validation.prompts is empty")
        return self


class Config(Section):
    """A whole run."""

    model: ModelConfig
    text: TextConfig
    vae: VAEConfig | None = None
    data: DataConfig
    flow: FlowConfig = FlowConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig
    validation: ValidationConfig = ValidationConfig()

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
        for key in ("random_crop", "horizontal_flip"):
            if getattr(self.data, key):
                raise ValueError(
                    f"data.{key} cannot be combined with latents computed ahead, which hold one center crop an image"
                )
        return self.vae

    def to_yaml(self) -> str:
        """The resolved config, which `load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _one_of(value: str, known: dict[str, Any]) -> str:
    if value not in known:
        raise ValueError(f"expected one of {', '.join(known)}")
    return value


def find_config(name: str) -> Path:
    """A config file by path, or a preset by name such as `scenes/depth-wise`."""
    presets_folder = resource("configs")
    for path in (Path(name), presets_folder / f"{name}.yaml"):
        if path.is_file():
            return path
    files = (path for folder in PRESET_FOLDERS for path in sorted((presets_folder / folder).glob("*.yaml")))
    presets = [f"{path.parent.name}/{path.stem}" for path in files if path.stem != "base"]
    raise ValueError(f"There is no config file {name!r} and no preset of that name; presets: {', '.join(presets)}.")


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a config with its `extends` and dotted overrides (`training.steps=100`), and checks it.

    Raises:
        ValueError: with one line for each mistake, starting with the key's path and saying the value seen.
    """
    path = find_config(name)
    values = _read(path)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"Override {override!r} is not of the form key.path=value.")
        _set(values, key.split("."), _parse(text, f"Override {override!r}"), override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: " + "; ".join(_describe(item, values) for item in error.errors())) from error


def _describe(error: Any, values: Any) -> str:
    where = ".".join(_key_path(error["loc"], values))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("missing", "extra_forbidden"):
        return f"{where}: {'unknown key' if error['type'] == 'extra_forbidden' else 'this key is missing'}"
    whole_section = error["type"] == "value_error" and isinstance(error["input"], dict)
    return message if whole_section else f"{where}: {message}, not {error['input']!r}"


def _key_path(location: tuple[int | str, ...], values: Any) -> Iterator[str]:
    """The keys of a location as the user wrote them: pydantic also names the branch of a union that it tried."""
    for number, part in enumerate(location, start=1):
        if isinstance(values, dict) and (part in values or number == len(location)):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            continue
        yield str(part)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping, merged over what it `extends` (a path relative to the file itself)."""
    path = path.resolve()
    if path in seen:
        raise ValueError(f"{path} extends itself, by way of {seen[-1]}.")
    values = _parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, not a mapping of keys to values.")
    base = values.pop("extends", None)
    if not isinstance(base, str | None):
        raise ValueError(f"{path}: extends names one file, not {base!r}.")
    return _merge(_read(path.parent / base, (*seen, path)), values) if base else values


def _parse(text: str, name: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, key by key; a data source replaces the other whole, since its keys belong together."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both and not isinstance(value.get("source"), str) else value
    return merged


def _set(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ValueError(f"Override {override!r}: {part!r} is a value and has no keys.")
    values[path[-1]] = value
