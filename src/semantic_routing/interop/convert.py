"""Reference checkpoint to our pipeline folder, and back. Tensors keep every bit and their dtype."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ..io.files import JsonObject, read_json_object, whole_folder
from ..models import MODELS, DiffusionTransformer2DModel, FuseDiTTransformer2DModel
from ..pipelines import SemanticRoutingPipeline
from ..text import load_language_model, load_tokenizer
from ..text.loading import load_language_model_config
from ..text.places import silent
from .constants import INSTRUCTION, MAX_LENGTH, SCHEDULER_SHIFT, Description, describe, reference_config
from .containers import Checkpoint, Weights, find_raw_weights, read_checkpoint, read_weights
from .layout import LANGUAGE_MODEL_PREFIX, from_reference, to_reference

# Beside a converted transformer: the reference's configuration, and what the pipeline needs to know beyond it.
RECORD = "reference.json"


class Parts(NamedTuple):
    """What a reference checkpoint does not hold, and where it is.

    None is the exported pipeline's own, else what the reference's presets have. `text_encoder` is a folder or name that
    the new pipeline will refer to; `shift` is the scheduler's.
    """

    text_encoder: str | None = None
    tokenizer: str | None = None
    vae: str | None = None
    vae_subfolder: str | None = None
    instruction: str | None = None
    max_length: int | None = None
    shift: float | None = None


def convert(
    source: Path, out: Path, parts: Parts | None = None, transformer_only: bool = False, weights: Weights | None = None
) -> list[str]:
    """Writes a reference checkpoint as one of our pipelines, whole or not at all.

    Args:
        source: a training folder, a file of weights beside its `config.json`, or an exported pipeline.
        out: the new folder.
        parts: language model, tokenizer and autoencoder, and the constants of training that no file holds.
        transformer_only: write the model folder alone, and no language model, not even one that the checkpoint holds.
        weights: see `read_checkpoint`.

    Returns:
        Lines that say what was read and which constants were taken from where.

    Raises:
        ValueError: the checkpoint is damaged, or has what our models do not, or parts are missing.
        OSError: a path does not exist.
    """
    _check_new(out)
    parts = parts or Parts()
    checkpoint = read_checkpoint(source, weights)
    description = describe(checkpoint.config, checkpoint.tensors)
    transformer, language_model = _build(checkpoint.tensors, description)
    scheduler = _scheduler(checkpoint.pipeline, parts.shift)
    record = {
        "config": checkpoint.config,
        "text_layers": description.text_layers,
        "instruction": INSTRUCTION if parts.instruction is None else parts.instruction,
        "max_length": parts.max_length or MAX_LENGTH,
        "scheduler_shift": scheduler.config.shift,
    }
    with whole_folder(out) as partial:
        if transformer_only:
            transformer.save_pretrained(partial)
            (partial / RECORD).write_text(json.dumps(record, indent=1))
        else:
            options = {key: record[key] for key in ("text_layers", "instruction", "max_length")}
            pipeline = _assemble(checkpoint, transformer, language_model, scheduler, parts, options)
            pipeline.save_pretrained(partial)
            (partial / "transformer" / RECORD).write_text(json.dumps(record, indent=1))
    return [
        f"Read {len(checkpoint.tensors)} tensors from {checkpoint.file}",
        *(f"{key}: {value}" for key, value in description.options.items()),
        *(f"{key}: {value}" for key, value in record.items() if key != "config"),
        f"Wrote the {'transformer' if transformer_only else 'pipeline'} to {out}",
    ]


def convert_to_reference(source: Path, out: Path, transformer_only: bool = False) -> list[str]:
    """Writes one of our pipelines, or its model folder, as a reference checkpoint: `config.json`, `model.safetensors`.

    Language model, tokenizer, autoencoder and scheduler are the same files for both and stay where they are, except
    FuseDiT's language model, which the reference keeps with the model.

    Args:
        source: a pipeline's folder, or a transformer's.
        out: the new folder.
        transformer_only: leave out FuseDiT's language model.

    Returns:
        Lines that say what was written.

    Raises:
        ValueError: the folder is not ours, is damaged, or holds what the reference cannot.
    """
    _check_new(out)
    pipeline = source if (source / "model_index.json").is_file() else None
    folder = source if pipeline is None else source / "transformer"
    transformer = _empty(folder)
    tensors = to_reference(read_weights(find_raw_weights(folder)), transformer)
    text = None if pipeline is None else _text_of(pipeline)
    if isinstance(transformer, FuseDiTTransformer2DModel) and not transformer_only:
        if pipeline is None:
            raise ValueError(
                f"{source} holds the image side alone; a whole FuseDiT needs its pipeline. "
                "Pass --transformer-only to leave out the language model."
            )
        tensors |= _language_model_tensors(pipeline)
    if (folder / RECORD).is_file():
        config = read_json_object(folder / RECORD)["config"]
    else:
        layers = None if pipeline is None or text is None else _layers_of(pipeline, transformer, text)
        config = reference_config(transformer, None if text is None else _plain(text), layers)
    with whole_folder(out) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=1))
        # Slices of a stacked tensor would be saved as one shared memory.
        save_file(
            {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, partial / "model.safetensors"
        )
    return [f"Wrote {len(tensors)} tensors of a {config['architectures'][0]} to {out}"]


def _check_new(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} exists already; name a new folder.")


def _build(
    tensors: dict[str, Tensor], description: Description
) -> tuple[DiffusionTransformer2DModel, dict[str, Tensor]]:
    """The transformer with its weights, and the language model's tensors where the checkpoint has them."""
    language_model = {
        name.removeprefix(LANGUAGE_MODEL_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(LANGUAGE_MODEL_PREFIX)
    }
    image = {name: tensor for name, tensor in tensors.items() if not name.startswith(LANGUAGE_MODEL_PREFIX)}
    with torch.device("meta"):
        transformer = description.transformer_class(**description.options)
    transformer.load_state_dict(from_reference(image, transformer), assign=True)
    return transformer, language_model


def _scheduler(pipeline: Path | None, shift: float | None) -> FlowMatchEulerDiscreteScheduler:
    if shift is None and pipeline is not None and (pipeline / "scheduler" / "scheduler_config.json").is_file():
        return FlowMatchEulerDiscreteScheduler.from_pretrained(pipeline / "scheduler")
    return FlowMatchEulerDiscreteScheduler(shift=SCHEDULER_SHIFT if shift is None else shift)


def _assemble(
    checkpoint: Checkpoint,
    transformer: DiffusionTransformer2DModel,
    language_model: dict[str, Tensor],
    scheduler: FlowMatchEulerDiscreteScheduler,
    parts: Parts,
    options: JsonObject,
) -> SemanticRoutingPipeline:
    folder = checkpoint.pipeline
    vae = _part(parts.vae, folder, "vae", "the autoencoder", "--vae")
    text_encoder = tokenizer = None
    if language_model:
        text_encoder = _load_language_model(checkpoint.config["base_config"], language_model)
    elif parts.text_encoder is None:
        text_encoder = _load_text_encoder(_part(None, folder, "text_encoder", "the language model", "--text-encoder"))
    if text_encoder is not None:
        named = parts.tokenizer or parts.text_encoder
        tokenizer = load_tokenizer(_part(named, folder, "tokenizer", "the tokenizer", "--tokenizer"))
    within = {} if parts.vae_subfolder is None else {"subfolder": parts.vae_subfolder}
    return SemanticRoutingPipeline(
        transformer=transformer,
        scheduler=scheduler,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        vae=AutoencoderKL.from_pretrained(vae, **within),
        text_model=parts.text_encoder,
        **options,
    )


def _part(given: str | None, pipeline: Path | None, folder: str, what: str, option: str) -> str:
    """Where a part is: as the user says, else within the exported pipeline."""
    if given is not None:
        return given
    if pipeline is not None and (pipeline / folder).is_dir():
        return str(pipeline / folder)
    raise ValueError(
        f"The checkpoint comes without {what}: name it with {option}, or write the model alone with --transformer-only."
    )


def _load_text_encoder(name: str) -> PreTrainedModel:
    """In the dtype that it was saved in."""
    dtype = load_language_model_config(name).dtype
    return load_language_model(name, dtype if isinstance(dtype, torch.dtype) else torch.float32)


def _load_language_model(config: JsonObject, tensors: dict[str, Tensor]) -> PreTrainedModel:
    """FuseDiT's language model from the checkpoint's own tensors."""
    if "model_type" not in config:
        raise ValueError(
            "The reference configuration's base_config has no 'model_type', so its language model is unknown."
        )
    text = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model_class: Any = type(AutoModel.from_config(text))  # type: ignore[no-untyped-call]
    with silent():
        model, report = model_class.from_pretrained(
            None,
            config=text,
            state_dict=tensors,
            dtype=next(iter(tensors.values())).dtype,
            output_loading_info=True,
        )
    for problem, names in (("lacks", report["missing_keys"]), ("has no place for", report["unexpected_keys"])):
        if names:
            what = f"{problem} {LANGUAGE_MODEL_PREFIX + min(names)!r}"
            raise ValueError(f"The checkpoint's language model, a {type(model).__name__}, {what}.")
    return model.eval().requires_grad_(False)


def _empty(folder: Path) -> DiffusionTransformer2DModel:
    """The transformer of a model folder of ours, without weights."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is neither a pipeline nor a transformer: it has no config.json.")
    config = read_json_object(folder / "config.json")
    classes = {model.__name__: model for model in MODELS.values()}
    name = config.get("_class_name")
    if name not in classes:
        raise ValueError(f"{folder} holds no transformer of ours: its class is {name!r}.")
    with torch.device("meta"):
        return classes[name].from_config(config)


def _text_of(pipeline: Path) -> PreTrainedConfig:
    """The `transformers` configuration of a pipeline's language model, copied or named."""
    copied = pipeline / "text_encoder"
    name = str(copied) if copied.is_dir() else read_json_object(pipeline / "model_index.json")["text_model"]
    return load_language_model_config(name)


def _layers_of(pipeline: Path, transformer: DiffusionTransformer2DModel, text: PreTrainedConfig) -> list[int]:
    layers = read_json_object(pipeline / "model_index.json")["text_layers"]
    return list(transformer.prompt_encoder_class.resolve(layers, text))


def _plain(text: PreTrainedConfig) -> JsonObject:
    """A configuration as JSON, with the rotary base also where the reference's version of the library looks for it."""
    values: JsonObject = json.loads(text.to_json_string(use_diff=False))
    base = (values.get("rope_parameters") or {}).get("rope_theta")
    return values if base is None else {**values, "rope_theta": base}


def _language_model_tensors(pipeline: Path) -> dict[str, Tensor]:
    copied = pipeline / "text_encoder"
    name = str(copied) if copied.is_dir() else read_json_object(pipeline / "model_index.json")["text_model"]
    model = _load_text_encoder(name)
    return {LANGUAGE_MODEL_PREFIX + key: tensor for key, tensor in model.state_dict().items()}
