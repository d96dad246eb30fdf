"""The router of a saved pipeline, without its backbone."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import safe_open

from ..fusion import STRATEGIES, SemanticRouter
from ..io.resources import resource

PREFIX = "router."
ROUTERLESS = "fusedit"  # what there is beside `STRATEGIES`


class PipelineFiles(NamedTuple):
    """What the small files of a pipeline say."""

    name: str | None
    folder: Path
    model_index: dict[str, Any]
    transformer: dict[str, Any]

    @property
    def strategy(self) -> str:
        """The fusion strategy, or `ROUTERLESS`."""
        return str(self.transformer.get("strategy", ROUTERLESS))


def find_pipeline(name: str | None) -> PipelineFiles:
    """Reads the configuration files of a pipeline by folder or hub name; None is the demo model.

    Raises:
        ValueError: the folder holds no pipeline.
        OSError: there is no such folder or hub name.
    """
    folder = resource("demo") if name is None else Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        wanted = ["model_index.json", "transformer/config.json", "transformer/*.safetensors"]
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=wanted))
        except ValueError as error:
            raise ValueError(f"{name!r} is neither a pipeline's folder nor a hub name.") from error
    texts = []
    for path in (folder / "model_index.json", folder / "transformer" / "config.json"):
        if not path.is_file():
            raise ValueError(f"{folder} is not a pipeline's folder: it has no {path.relative_to(folder)}.")
        texts.append(json.loads(path.read_text(encoding="utf-8")))
    return PipelineFiles(name, folder, *texts)


def load_router(files: PipelineFiles) -> SemanticRouter:
    """Builds the router alone and reads its own tensors, and no others, from the checkpoint.

    Raises:
        ValueError: the transformer has no router, or the checkpoint lacks its weights.
    """
    if files.strategy not in STRATEGIES:
        raise ValueError(f"The transformer in {files.folder} has no router: its strategy is {files.strategy!r}.")
    config = files.transformer
    router = SemanticRouter(config["strategy"], config["num_text_layers"], config["num_blocks"])
    tensors = {}
    for path in sorted((files.folder / "transformer").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                if key.startswith(PREFIX):
                    tensors[key.removeprefix(PREFIX)] = file.get_tensor(key).float()
    missing = sorted(router.state_dict().keys() - tensors.keys())
    if missing:
        raise ValueError(f"The weights in {files.folder / 'transformer'} lack {PREFIX}{missing[0]}.")
    router.load_state_dict(tensors)
    return router.eval()


def layer_numbers(files: PipelineFiles) -> list[int]:
    """The language-model layers that the router reads, as `semantic_routing.text.resolve_layers` numbers them."""
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


@torch.no_grad()
def fusion_weights(router: SemanticRouter, flow_times: NDArray[np.float64]) -> Float[np.ndarray, "times blocks layers"]:
    """α at flow times t in [0, 1], in float64; one time, or one block, where the strategy depends on none."""
    times = flow_times if router.depends_on_time else flow_times[:1]
    timestep = torch.tensor(1000 * (1 - times), dtype=torch.float32)
    return router.weights(timestep).transpose(0, 1).double().numpy()
