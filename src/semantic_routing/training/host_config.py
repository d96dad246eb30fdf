"""What a run in a host is."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from ..data.latents import LatentsSource
from ..data.sources import SOURCES
from ..flow_config import FlowConfig
from ..fusion import FUSIONS
from ..io.arguments import check_arguments
from ..io.config_files import override
from ..io.files import JsonObject
from ..io.section import Dtype, Registered, Section, check_section
from .config import RunConfig, check_ahead


class HostConfig(Section):
    """The host, what is put into it, and what of it is trained."""

    pipeline: str = Field(min_length=1, description="folder or hub name of a pipeline of diffusers, see docs/hosts.md")
    fusion: Annotated[str, Registered(FUSIONS)] | None = Field(
        "depth-wise", description="fusion strategy that is put into the host and trained; None puts none"
    )
    fusion_options: dict[str, Any] = Field({}, description="options of the fusion strategy, by name")
    layers: Literal["all"] | int | list[int] = Field("all", description="of the text encoder: all, last n, or indices")
    lora_rank: NonNegativeInt = Field(0, description="of LoRAs on the host's attention; 0 makes none")
    trained: Literal["nothing", "text", "all"] = Field(
        "nothing",
        description="of the host's own weights: nothing; what reads text, which is cross-attention and the projection "
        "before it, or whole blocks where text and image share a stream; or all",
    )
    dtype: Dtype = Field("float32", description="of the host's weights")
    text_cache: NonNegativeInt = Field(
        0, description="captions whose text is kept in memory, each encoded alone; 0 encodes every batch"
    )
    options: dict[str, Any] = Field({}, description="more arguments of the pipeline's call, such as its text's length")

    @model_validator(mode="after")
    def _trains_something(self) -> "HostConfig":
        if self.fusion is None and not self.lora_rank and self.trained == "nothing":
            raise ValueError("nothing would be trained: host.fusion is None, host.lora_rank 0, host.trained nothing")
        if self.lora_rank and self.trained != "nothing":
            raise ValueError(
                f"host.lora_rank is {self.lora_rank} and host.trained {self.trained!r}: a LoRA stands for training "
                "the weights themselves"
            )
        if self.fusion is not None:
            check_arguments(FUSIONS[self.fusion], self.fusion_options, f"fusion strategy {self.fusion!r}")
        if self.trained != "nothing" and self.dtype != "float32":
            raise ValueError(f"host.trained {self.trained!r} needs host.dtype float32, not {self.dtype}")
        return self


class AdaptConfig(RunConfig):
    """A run in a host."""

    host: HostConfig = Field(description="the host, and what of it is trained")
    flow: FlowConfig | None = Field(
        None, description="noise levels of a host that follows a flow; None takes the scheduler's shift"
    )

    @model_validator(mode="after")
    def _has_no_keys_of_our_own_model(self) -> "AdaptConfig":
        if self.training.initialize_from is not None:
            raise ValueError("training.initialize_from is for models of our own; name a host by host.pipeline")
        if self.training.fp8:
            raise ValueError("training.fp8 is for models of our own, not for hosts")
        if self.training.lora_rank:
            raise ValueError("training.lora_rank is for models of our own; a host has host.lora_rank")
        if self.optimizer.muon_learning_rate is not None and self.host.trained == "nothing":
            raise ValueError(
                "optimizer.muon_learning_rate is for matrices of the host's blocks, and host.trained is 'nothing': set "
                "it to text or all, or leave the rate out"
            )
        if isinstance(self.data.source, LatentsSource):
            check_ahead(self.data)
        return self


def adapt_config(host: str, data: str, output: Path, overrides: list[str] | None = None) -> AdaptConfig:
    """A run from what must be said, with defaults for the rest.

    Args:
        host: folder or hub name of a pipeline.
        data: a JSON or JSONL file of captions, the name of a data source such as `scenes`, or a data set of Hugging
            Face.
        output: the run's folder.
        overrides: dotted changes such as `host.lora_rank=8`.

    Raises:
        ValueError: one line that names each mistake by the path of its key.
    """
    values: JsonObject = {
        "host": {"pipeline": host},
        "data": {"source": data_source(data), "image_size": 512},
        "optimizer": {"fusion_learning_rate": 1e-2, "schedule": "constant_with_warmup", "warmup_steps": 50},
        "training": {
            "output": str(output),
            "steps": 1000,
            "batch_size": 16,
            "ema_decay": 0.99,
            "checkpoint_every": 250,
        },
    }
    for change in overrides or []:
        override(values, change)
    return check_section(AdaptConfig, values, "sroute adapt")


def data_source(name: str) -> JsonObject:
    """The section `data.source` for a name: of a file, of a registered source, or of a data set of Hugging Face."""
    if name in SOURCES:
        return {"source": name}
    kind = "json" if Path(name).suffix in (".json", ".jsonl") else "huggingface"
    return {"source": kind, "path": name}
