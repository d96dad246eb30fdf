"""The model card of a saved pipeline: what it is, how to use it, what it was trained on, how it scored.

A card is made of the files in the pipeline's folder alone, so it can be made again at any time.
"""

import math
from pathlib import Path

import yaml
from safetensors import safe_open

from ..io.files import PARTIAL, JsonObject, write_text
from .saved import PipelineFiles, find_pipeline

CARD, SCORES = "README.md", "scores.md"
MARK = (
    "<!-- Written by semantic-routing. Remove this line to keep your changes: it marks a card that may be replaced. -->"
)
# Of the card that `diffusers` puts into a repository that has none.
PLACEHOLDER = "This is the model card of a 🧨 diffusers"
OWN_SOURCE = "semantic_routing."

_TEMPLATE = """---
library_name: diffusers
pipeline_tag: text-to-image
tags: {tags}
---
{mark}

# {name}

A diffusion transformer that makes images from text, with {parameters} parameters in {blocks} blocks. It reads {layers}
layers of the language model `{text_model}` {fusion}. See [semantic routing](https://arxiv.org/abs/2602.03510).

## How to use it

```python
from semantic_routing import SemanticRoutingPipeline

pipeline = SemanticRoutingPipeline.from_pretrained("{name}")
images = pipeline("a prompt").images
```

or `sroute generate "a prompt" --pipeline {name}`. It samples in {steps} steps at guidance {guidance:g} unless a call
says otherwise. {notes}

## Training data

{data}

## Scores

{scores}

## Configuration

Of the transformer:

```yaml
{config}
```
"""


def write_card(folder: Path, name: str | None = None) -> Path | None:
    """Writes `README.md` into a pipeline's folder; returns None where a file of that name is the user's.

    Args:
        folder: of the pipeline. What it says of data comes from its `config.yaml`, scores from its `scores.md`.
        name: of the model; None is the folder's.

    Raises:
        ValueError: the folder holds no pipeline.
    """
    path = folder / CARD
    files = find_pipeline(str(folder))
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if MARK not in text and PLACEHOLDER not in text:
            return None
    return write_text(path, describe(files, name or folder.resolve().name.removesuffix(PARTIAL)))


def describe(files: PipelineFiles, name: str) -> str:
    """The text of a card."""
    index, config = files.model_index, files.transformer
    scores = files.folder / SCORES
    return _TEMPLATE.format(
        tags=yaml.safe_dump(["semantic-routing", files.strategy or "fusedit"], default_flow_style=True).strip(),
        mark=MARK,
        name=name,
        parameters=_rounded(_count_parameters(files.folder / "transformer")),
        blocks=config["num_blocks"],
        layers=config["num_text_layers"],
        text_model=_text_model(index),
        fusion=f"through the fusion `{files.strategy}`" if files.strategy else "by deep fusion (FuseDiT)",
        steps=files.steps,
        guidance=files.guidance,
        notes=_notes(files),
        data=_describe_data(files.training_data),
        scores=scores.read_text(encoding="utf-8").strip() if scores.is_file() else "None were recorded.",
        config=_as_yaml({key: value for key, value in config.items() if not key.startswith("_")}),
    )


def _text_model(index: JsonObject) -> str:
    """The language model's name; of a folder the last part, since the rest is of one machine."""
    name = str(index.get("text_model") or "in this folder")
    return Path(name).name if Path(name).is_absolute() else name


def _notes(files: PipelineFiles) -> str:
    """What one must know to load it."""
    notes = []
    if not (files.folder / "text_encoder").is_dir():
        notes.append("The language model is not part of this pipeline and is loaded by its name.")
    source = files.transformer.get("fusion_source")
    if source and not source.startswith(OWN_SOURCE):
        notes.append(f"Its fusion is the class `{source}`, whose file must be imported first.")
    return " ".join(notes)


def _describe_data(data: JsonObject | None) -> str:
    """The data section of the training's config, without the folders of the machine that it ran on."""
    if data is None:
        return "Not recorded."
    source = {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in data["source"].items()
    }
    return f"```yaml\n{_as_yaml({**data, 'source': source})}\n```"


def _as_yaml(values: JsonObject) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()


def _count_parameters(folder: Path) -> int:
    """Parameters of the weights in a folder; no tensor is read."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total


def _rounded(count: int) -> str:
    """Such as 11.1 M."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f} {letter}"
    return str(count)
