"""From a training checkpoint to a pipeline folder."""

from pathlib import Path
from typing import Literal

import torch

from ..io.files import CONFIG, whole_folder, write_text
from .build import build_codec, build_pipeline, build_prompt_encoder, build_transformer, resolve_sizes
from .checkpoint import architecture, check_architecture, find_checkpoint, read_weights
from .config import load_config
from .lora import add_lora, save_lora

PARTS: dict[str, Literal["ema", "model"]] = {"ema": "ema", "raw": "model"}


def export_pipeline(
    checkpoint: Path,
    out: Path,
    weights: Literal["ema", "raw"] = "ema",
    dtype: Literal["float32", "bfloat16"] = "float32",
    with_text_encoder: bool = True,
) -> Path:
    """Writes the pipeline of a checkpoint, whole or not at all, and returns its folder.

    Of a run that trained LoRAs the folder holds these alone, for `load_lora_weights` of the pipeline that they were
    trained on.

    Beside what every saved pipeline has, it holds the run's `config.yaml`, from which its model card tells the data.

    Args:
        checkpoint: a checkpoint's folder, or a run's for its latest.
        out: the pipeline's folder, which must not exist.
        weights: the averaged ones, or those of the last step.
        dtype: of the transformer's weights.
        with_text_encoder: copy the text encoder, or store its name, under which it is loaded again.

    Raises:
        ValueError: there is no checkpoint, or `out` exists.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; name a new folder.")
    if (checkpoint / CONFIG).is_file():
        checkpoint = find_checkpoint(checkpoint, "latest")
    checkpoint = find_checkpoint(checkpoint.parent, checkpoint.name)
    config = load_config(str(checkpoint.parent / CONFIG))
    sizes = resolve_sizes(config)
    transformer = build_transformer(config, sizes)
    check_architecture(checkpoint, architecture(transformer))
    rank = config.training.lora_rank
    if rank:
        add_lora(transformer, rank)
    transformer.load_state_dict(read_weights(checkpoint, PARTS[weights], transformer), strict=not rank)
    if rank:
        with whole_folder(out) as partial:
            save_lora(transformer, partial, getattr(torch, dtype))
        return out
    for name, module in transformer.eval().named_children():
        if name not in transformer._keep_in_fp32_modules:
            module.to(getattr(torch, dtype))
    cpu = torch.device("cpu")
    encoder = build_prompt_encoder(config, sizes, cpu)
    pipeline = build_pipeline(config, transformer, encoder, build_codec(config, cpu), named=not with_text_encoder)
    with whole_folder(out) as partial:
        write_text(partial / CONFIG, config.to_yaml())
        pipeline.save_pretrained(partial)
    return out
