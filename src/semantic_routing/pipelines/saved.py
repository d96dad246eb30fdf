"""The fusion of a saved pipeline, or of an adapter for a host, without its backbone."""

from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from ..fusion import TextFusion
from ..fusion.contract import make_fusion
from ..fusion.saved import ADAPTER_CONFIG, ADAPTER_WEIGHTS, current_name, find_fusion, fusion_sizes
from ..io.files import CONFIG, JsonObject, read_json_object
from ..io.messages import one_sentence
from ..io.resources import resolve_pipeline
from ..io.strict_yaml import parse_yaml
from ..io.tensors import check_tensors

PREFIX = "fusion."
# Of a pipeline that does not say (paper, section 4.1).
PAPER_STEPS, PAPER_GUIDANCE = 50, 6.0


class PipelineFiles(NamedTuple):
    """What the small files of a pipeline, or of an adapter, say."""

    name: str
    folder: Path
    model_index: JsonObject
    transformer: JsonObject

    @property
    def strategy(self) -> str | None:
        """The fusion strategy; None where the transformer has no fusion."""
        # Version 0.1 wrote the kind of a transformer without a fusion here.
        name = self.transformer.get("strategy")
        return None if name == "fusedit" else name

    @property
    def steps(self) -> int:
        """Steps of calls that do not say."""
        return int(self.model_index.get("default_num_inference_steps", PAPER_STEPS))

    @property
    def guidance(self) -> float:
        """The scale of guidance of calls that do not say."""
        return float(self.model_index.get("default_guidance_scale", PAPER_GUIDANCE))

    @property
    def is_adapter(self) -> bool:
        """Whether there is a fusion and no model that it is in, see `adapters.save_routing`."""
        return (self.folder / ADAPTER_WEIGHTS).is_file()

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the fusion's tensors."""
        return sorted((self.folder / "transformer").glob("*.safetensors")) or [self.folder / ADAPTER_WEIGHTS]

    @property
    def training(self) -> JsonObject | None:
        """The `config.yaml` of the training; None where the pipeline's folder, or that around an adapter, has none."""
        path = (self.folder.parent if self.is_adapter else self.folder) / CONFIG
        if not path.is_file():
            return None
        config = parse_yaml(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
            raise ValueError(f"{path} is not the config of a run: it has no section data.")
        return config

    @property
    def training_data(self) -> JsonObject | None:
        """The section `data` of `training`."""
        return None if self.training is None else self.training["data"]

    @property
    def trained_skills(self) -> tuple[str, ...] | None:
        """The skills of scenes that training named; None where that is not known, or it was on something else."""
        return trained_skills(self.training_data or {})


def trained_skills(data: JsonObject) -> tuple[str, ...] | None:
    """The skills of scenes that the section `data` of a run names; None where it is of something else."""
    source = data.get("source", {})
    if source.get("source") != "scenes":
        return None
    from ..scenes import HARD_SKILLS, SKILLS

    named = source.get("skills") or SKILLS
    return tuple(skill for skill in (*SKILLS, *HARD_SKILLS) if skill in named)


def is_host(name: str) -> bool:
    """Whether a folder holds a pipeline of `diffusers` that is not ours."""
    index = Path(resolve_pipeline(name)) / "model_index.json"
    if not index.is_file():
        return False
    kind = str(read_json_object(index).get("_class_name"))
    return kind.endswith("Pipeline") and not kind.startswith("SemanticRouting")


def find_pipeline(name: str) -> PipelineFiles:
    """Reads the configuration files of a pipeline by folder or hub name, or of the demo model by "demo".

    The folder of an adapter serves what needs its fusion alone.

    Raises:
        ValueError: the folder holds no pipeline, or there is no such folder or hub name.
        OSError: the hub cannot be reached.
    """
    folder = Path(resolve_pipeline(name))
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        wanted = ["model_index.json", "transformer/config.json", "transformer/*.safetensors"]
        try:
            folder = Path(snapshot_download(name, allow_patterns=wanted))
        except ValueError as error:
            raise ValueError(f"{name!r} is neither a pipeline's folder nor a hub name.") from error
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter_files(name, folder)
    paths = [folder / "model_index.json", folder / "transformer" / "config.json"]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{folder} is not a pipeline's folder: it has no {path.relative_to(folder)}.")
    return PipelineFiles(name, folder, *map(read_json_object, paths))


def _adapter_files(name: str, folder: Path) -> PipelineFiles:
    """What the files of an adapter say, in the words of a pipeline's."""
    values = read_json_object(folder / ADAPTER_CONFIG)
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        blocks = len(file.get_tensor("gain"))
    transformer = {
        "strategy": values["fusion"],
        "fusion_options": values["fusion_options"],
        "fusion_source": values["fusion_source"],
        "num_text_layers": len(values["layers"]),
        "text_channels": values["text_channels"],
        "num_blocks": blocks,
    }
    return PipelineFiles(name, folder, {"text_layers": values["layers"]}, transformer)


def load_fusion(files: PipelineFiles) -> TextFusion:
    """Builds the fusion alone and reads its own tensors, and no others, from the checkpoint.

    Raises:
        ValueError: the transformer has no fusion, the fusion is not registered, or the checkpoint lacks its weights or
            is damaged.
    """
    if files.strategy is None:
        raise ValueError(f"The transformer in {files.folder} has no fusion.")
    with one_sentence(files.folder / "transformer"):
        return _load_fusion(files.strategy, files)


def _load_fusion(strategy: str, files: PipelineFiles) -> TextFusion:
    config = files.transformer
    kind = find_fusion(strategy, config.get("fusion_source"))
    fusion = make_fusion(strategy, kind, fusion_sizes(config), config.get("fusion_options") or {})
    tensors = {}
    for path in files.weight_files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                name = current_name(key)
                if name.startswith(PREFIX):
                    tensors[name.removeprefix(PREFIX)] = file.get_tensor(key).float()
    place = f"The fusion in {files.folder / 'transformer'}"
    check_tensors(tensors, {name: value.shape for name, value in fusion.state_dict().items()}, place)
    fusion.load_state_dict(tensors)
    return fusion.eval()


def layer_numbers(files: PipelineFiles) -> list[int]:
    """The language-model layers that the fusion reads, as `semantic_routing.text.resolve_layers` numbers them."""
    with one_sentence(f"The pipeline {files.folder}"):
        return _layer_numbers(files)


def _layer_numbers(files: PipelineFiles) -> list[int]:
    layers = files.model_index.get("text_layers", "all")
    count = int(files.transformer["num_text_layers"])
    if layers == "all":
        return list(range(1, count + 1))
    if isinstance(layers, list) and all(layer >= 0 for layer in layers):
        return sorted(layers)
    from ..text import resolve_layers
    from ..text.loading import load_language_model_config

    saved = files.folder / "text_encoder"
    source = str(saved) if saved.is_dir() else files.model_index["text_model"]
    return resolve_layers(layers, load_language_model_config(source).num_hidden_layers)
