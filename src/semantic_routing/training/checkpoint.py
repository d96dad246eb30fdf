"""Checkpoints: whole or not there at all, safetensors and JSON only, independent of the number of processes.

    checkpoint-00001000/
      model.safetensors       the weights
      ema.safetensors         their exponential moving average
      optimizer.safetensors   the optimizer's moments, by parameter name
      state.json              step, optimizer hyperparameters, the transformer's configuration

Weights that are not trained, as those of a host beside its fusion, are not kept.

There is no random state to keep: all randomness is a function of the seed and an example's number.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from ..io.files import whole_folder
from ..models import DiffusionTransformer2DModel

PATTERN = re.compile(r"checkpoint-(\d+)")
FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted((path for path in run.glob("checkpoint-*") if PATTERN.fullmatch(path.name)), key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of optimizer steps before a checkpoint."""
    return int(read_state(checkpoint)["step"])


def find_checkpoint(run: Path, name: str) -> Path:
    """`latest`, or a checkpoint's folder, within the run or anywhere.

    Raises:
        ValueError: there is none.
    """
    if name == "latest":
        checkpoints = list_checkpoints(run)
        if not checkpoints:
            raise ValueError(f"There is no checkpoint to resume from in {run}.")
        return checkpoints[-1]
    for path in (run / name, Path(name)):
        if (path / "state.json").is_file():
            return path
    raise ValueError(f"{name!r} is not a checkpoint: it has no state.json.")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return state


def check_architecture(checkpoint: Path, built: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another architecture than `built`, naming the first key that differs."""
    saved = read_state(checkpoint)["transformer"]
    for key, value in built.items():
        if saved.get(key) != value:
            raise ValueError(f"{checkpoint} was trained with {key}={saved.get(key)!r}; the config says {value!r}.")


def architecture(transformer: DiffusionTransformer2DModel) -> dict[str, Any]:
    """The transformer's configuration, without what `diffusers` keeps for itself and where the fusion is defined."""
    config: dict[str, Any] = json.loads(transformer.to_json_string())
    return {key: value for key, value in config.items() if not key.startswith("_") and key != "fusion_source"}


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMAModel,
    architecture: Mapping[str, Any],
    is_main: bool,
    keep: int,
) -> Path:
    """Writes a checkpoint beside the others and removes all but the newest `keep`.

    All processes take part in gathering what is sharded; one writes, under a temporary name until all of it is
    on disk. Older checkpoints go only after that.
    """
    weights = get_model_state_dict(model, options=FULL_ON_CPU)
    untouched = not optimizer.state
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=FULL_ON_CPU)
    if untouched:
        # Asking for moments that are not there yet makes them by a step of size zero, which is no step of training.
        for state in (*optimizer.state.values(), *moments["state"].values()):
            if "step" in state:  # Muon counts none
                state["step"].zero_()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    averages = {name: gather(value) for name, value in zip(names, ema.shadow_params, strict=True)}
    final = run / f"checkpoint-{step:08d}"
    if not is_main or final.exists():  # a run that took no step since it was resumed has its checkpoint already
        return final
    for left in run.glob("checkpoint-*.partial"):  # by an interruption
        shutil.rmtree(left)
    tensors = {
        f"{name}/{key}": torch.as_tensor(value)
        for name, state in moments["state"].items()
        for key, value in state.items()
    }
    state = {
        "step": step,
        "ema_step": ema.optimization_step,
        "param_groups": moments["param_groups"],
        "transformer": dict(architecture),
    }
    with whole_folder(final) as partial:
        _save(weights, partial / "model.safetensors")
        # What is not averaged (buffers) comes along, so that either file is a whole model.
        _save(weights | {_bare(name): value for name, value in averages.items()}, partial / "ema.safetensors")
        _save(tensors, partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(state, indent=1))
    for old in list_checkpoints(run)[:-keep]:
        _remove(old)
    return final


def _remove(checkpoint: Path) -> None:
    """Renames it first: what an interruption leaves must not look complete."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(checkpoint.name + ".partial")))


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel) -> int:
    """Restores everything in place and returns the step."""
    state = read_state(checkpoint)
    weights: dict[str, Any] = load_file(checkpoint / "model.safetensors")
    set_model_state_dict(model, weights, options=FULL_ON_CPU)
    moments: dict[str, dict[str, Tensor]] = {}
    for path, value in load_file(checkpoint / "optimizer.safetensors").items():
        name, _, key = path.rpartition("/")
        moments.setdefault(name, {})[key] = value
    saved = {"state": moments, "param_groups": state["param_groups"]}
    set_optimizer_state_dict(model, optimizer, saved, options=FULL_ON_CPU)
    averages = load_file(checkpoint / "ema.safetensors")
    names = [_bare(name) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, shadow in zip(names, ema.shadow_params, strict=True):
        _scatter(averages[name], shadow)
    ema.optimization_step = state["ema_step"]
    return int(state["step"])


def _bare(name: str) -> str:
    """A parameter's name without the prefixes of wrappers."""
    return name.removeprefix("module.").replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def gather(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded, on the CPU; all processes take part."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor.cpu()


def _scatter(whole: Tensor, target: Tensor) -> None:
    if isinstance(target, DTensor):
        from torch.distributed.tensor import distribute_tensor

        whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
    target.copy_(whole)


def _save(tensors: Mapping[str, Any], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
