"""The config's sections of the diffusion transformer and its autoencoder."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from ..flow import Prediction
from ..fusion import FUSIONS
from ..io.arguments import check_arguments
from ..io.files import JsonObject
from ..io.precision import AutoDtype
from ..io.section import Registered, Section
from . import MODELS
from .timestep import TIMESTEP_CONDITIONINGS


class ModelConfig(Section):
    """The diffusion transformer; what follows from the text encoder is not repeated here."""

    kind: Annotated[str, Registered(MODELS)] = Field(
        "routed", description="how text reaches the blocks: routed, by a fusion strategy; or fusedit, by deep fusion"
    )
    strategy: Annotated[str, Registered(FUSIONS)] | None = Field(
        None, description="fusion strategy of a routed model; other kinds have none"
    )
    fusion_options: dict[str, Any] = Field({}, description="options of the fusion strategy, by name")
    context_channels: PositiveInt | None = Field(
        None, le=1_000_000, description="channels of what blocks read of the text; None is those of the text encoder"
    )
    num_blocks: PositiveInt = Field(24, le=1000, description="transformer blocks")
    num_attention_heads: PositiveInt = Field(32, le=1024, description="query heads of an attention")
    num_key_value_heads: PositiveInt = Field(
        8, le=1024, description="key and value heads of an attention; divides the query heads"
    )
    attention_head_dim: PositiveInt = Field(128, le=4096, description="channels of a head, divisible by 4")
    hidden_size: PositiveInt = Field(2048, le=65536, description="channels of an image token")
    patch_size: PositiveInt = Field(2, le=1024, description="latent pixels a side of an image token")
    mlp_ratio: PositiveFloat = Field(4.0, le=64, description="channels inside an MLP, over hidden_size")
    timestep_conditioning: Annotated[str, Registered(TIMESTEP_CONDITIONINGS)] = Field(
        "none", description="how blocks learn the timestep beside the fusion: none, addition, adaln-zero, adaln-single"
    )
    prediction: Prediction = Field(
        "velocity", description="what the network predicts: the velocity, or the clean sample (better for pixels)"
    )
    position_embedding: Literal["rope", "sincos", "rope+sincos"] = Field(
        "rope", description="how tokens know their place: by rotation in attention, by added sines, or by both"
    )
    rope_base: PositiveFloat = Field(10000.0, description="base of the rotary frequencies")
    sandwich_norm: bool = Field(False, description="normalize the output of attention and MLP as well as their input")
    norm_eps: PositiveFloat = Field(1e-6, description="added to the variance in norms")

    @field_validator("strategy", mode="before")
    @classmethod
    def _fusedit_is_a_kind(cls, value: object) -> object:
        if value == "fusedit":
            raise ValueError("for FuseDiT write model.kind: fusedit and no strategy")
        return value

    @model_validator(mode="after")
    def _strategy_goes_with_kind(self) -> "ModelConfig":
        if self.kind == "routed" and self.strategy is None:
            raise ValueError(f"model.strategy: this key is missing; expected one of {', '.join(FUSIONS)}")
        if self.kind != "routed" and (self.strategy is not None or self.fusion_options or self.context_channels):
            raise ValueError(
                f"model.kind {self.kind} has no fusion: leave out model.strategy, here {self.strategy!r}, "
                "model.fusion_options and model.context_channels"
            )
        if self.strategy is not None:
            check_arguments(FUSIONS[self.strategy], self.fusion_options, f"fusion strategy {self.strategy!r}")
        return self

    def arguments(self) -> JsonObject:
        """What the transformer's class takes of this section."""
        optional = ("strategy", "fusion_options", "context_channels")
        return self.model_dump(exclude={"kind", *(key for key in optional if not getattr(self, key))})


class VAEConfig(Section):
    """The autoencoder whose latents are denoised, which is not trained."""

    model: str = Field(min_length=1, description="folder or hub name of an AutoencoderKL")
    subfolder: str | None = Field(None, description="folder within it, such as vae in a pipeline")
    dtype: AutoDtype = Field(
        "float32", description="of its weights; auto is bfloat16 where this machine multiplies it fast, else float32"
    )
    latent_channels: PositiveInt | None = Field(None, description="channels it must have; None asks the model")
    downsampling: PositiveInt | None = Field(None, description="pixels a latent pixel; None asks the model")
