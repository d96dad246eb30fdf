"""The config's section of the text encoder."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ..io.precision import AutoDtype
from ..io.section import Section


class TextConfig(Section):
    """The text encoder, which is not trained."""

    model: str = Field(
        min_length=1, description="folder, hub name, or package:NAME for a model that a Python package carries"
    )
    layers: Literal["all"] | PositiveInt | list[int] = Field("all", description="all, last n, or indices")
    last_layer: Literal["normalized", "raw"] = Field(
        "normalized", description="read the language model's last layer after its final norm, or before it (raw)"
    )
    instruction: str = Field("", description="put before every caption, without a separator")
    chat_template: bool = Field(False, description="wrap captions as a user's message in the tokenizer's template")
    max_length: PositiveInt = Field(
        512, le=1_000_000, description="tokens, instruction included, after which captions are cut"
    )
    dtype: AutoDtype = Field(
        "float32", description="of its weights; auto is bfloat16 where this machine multiplies it fast, else float32"
    )
    cache: Path | None = Field(None, description="folder that keeps features of captions; None keeps none")
    cache_gib: PositiveFloat = Field(4.0, description="size in GiB past which the features used longest ago go")
    num_hidden_layers: PositiveInt | None = Field(None, description="layers the model must have; None asks the model")
    hidden_size: PositiveInt | None = Field(None, description="channels the model must have; None asks the model")
    architecture: dict[str, Any] | None = Field(
        None, description="the rest of the model's transformers configuration, for costs and checks without the model"
    )
