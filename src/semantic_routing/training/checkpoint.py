"""Checkpoints: whole or not there at all, safetensors and JSON only, independent of the number of processes.

    checkpoint-00001000/
      model.safetensors       the weights
      ema.safetensors         their exponential moving average
      optimizer.safetensors   the optimizer's moments, by parameter name
      state.json              step, the run's config, the transformer's configuration; size and digest of each file

Weights that are not trained, as those of a host beside its fusion, are not kept.

There is no random state to keep: all randomness is a function of the seed and an example's number. Learning rates and
the optimizer's other numbers are the config's.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Size, Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from ..io.files import JsonObject, whole_folder
from ..io.messages import brief
from ..io.tensors import check_tensors, read_tensors, write_tensors
from ..models import DiffusionTransformer2DModel

logger = logging.getLogger(__name__)

PATTERN = re.compile(r"checkpoint-(\d+)")
STATE = "state.json"
TENSOR_FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
# Parameters that got no gradient have no moments.
SOME_FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


class FileMark(BaseModel):
    """What a file must be to be the one that was written."""

    size: NonNegativeInt
    sha256: str


class CheckpointState(BaseModel):
    """`state.json`. Version 0.1 wrote neither the run's config nor the files' marks."""

    model_config = ConfigDict(strict=True)

    step: NonNegativeInt
    transformer: JsonObject
    run: JsonObject | None = None
    files: dict[str, FileMark] | None = None


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first; digests are not computed."""
    return [path for path in checkpoint_folders(run) if _damage(path, digests=False) is None]


def checkpoint_folders(run: Path) -> list[Path]:
    """What is called a checkpoint, whole or not, oldest first."""
    return sorted((path for path in run.glob("checkpoint-*") if PATTERN.fullmatch(path.name)), key=_number)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of optimizer steps before a checkpoint."""
    return read_state(checkpoint).step


def find_checkpoint(run: Path, name: str) -> Path:
    """`latest`, or a checkpoint's folder, within the run or anywhere.

    The latest is the newest that is whole; newer ones are named in the log.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if name == "latest":
        for path in reversed(checkpoint_folders(run)):
            damage = _damage(path)
            if damage is None:
                return path
            logger.warning("Skipped a damaged checkpoint: %s", damage)
        raise ValueError(f"There is no checkpoint to resume from in {run}, or none that is whole.")
    for path in (run / name, Path(name)):
        if (path / STATE).is_file():
            damage = _damage(path)
            if damage is not None:
                raise ValueError(damage)
            return path
    raise ValueError(f"{brief(name)} is not a checkpoint: it has no {STATE}.")


def make_way(run: Path, resumed: Path | None) -> None:
    """Renames damaged checkpoints that are newer than the one resumed, since new ones will need their names.

    Raises:
        ValueError: the run holds checkpoints that it would not go on from.
    """
    for path in checkpoint_folders(run):
        if resumed is None:
            raise ValueError(f"{run} already holds checkpoints; resume with --resume latest, or name another output.")
        if _number(path) <= checkpoint_step(resumed):
            continue
        if _damage(path) is None:
            raise ValueError(
                f"{run} holds a later checkpoint than {resumed.name}: {path.name}; remove it, or name another output."
            )
        aside = path.with_name(path.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


def read_state(checkpoint: Path) -> CheckpointState:
    """The JSON part of a checkpoint.

    Raises:
        ValueError: it is damaged, or of another step than the folder's name says.
    """
    path = checkpoint / STATE
    try:
        state = CheckpointState.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is damaged: {where + ': ' if where else ''}{first['msg']}.") from error
    if PATTERN.fullmatch(checkpoint.name) and state.step != _number(checkpoint):
        raise ValueError(f"{path} is damaged: it is of step {state.step}, not {_number(checkpoint)}.")
    return state


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _damage(checkpoint: Path, digests: bool = True) -> str | None:
    """What is wrong with the files of a checkpoint; None where nothing is."""
    try:
        state = read_state(checkpoint)
        for name in TENSOR_FILES:
            path = checkpoint / name
            size = path.stat().st_size
            mark = (state.files or {}).get(name)
            if mark is None and state.files is not None:
                return f"{checkpoint / STATE} is damaged: it does not know {name}."
            if mark is not None and size != mark.size:
                return f"{path} is damaged: it has {size} bytes, not {mark.size}."
            if mark is not None and digests and _sha256(path) != mark.sha256:
                return f"{path} is damaged: its content is not what was written."
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_architecture(checkpoint: Path, built: JsonObject) -> None:
    """Refuses a checkpoint of another architecture than `built`, naming the first key that differs."""
    saved = read_state(checkpoint).transformer
    for key, value in built.items():
        if saved.get(key) != value:
            raise ValueError(
                f"{checkpoint} was trained with {key}={brief(saved.get(key))}; the config says {brief(value)}."
            )


def architecture(transformer: DiffusionTransformer2DModel) -> JsonObject:
    """The transformer's configuration, without what `diffusers` keeps for itself and where the fusion is defined."""
    config: JsonObject = json.loads(transformer.to_json_string())
    return {key: value for key, value in config.items() if not key.startswith("_") and key != "fusion_source"}


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMAModel,
    architecture: JsonObject,
    run_config: JsonObject,
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
    # What is not averaged (buffers) comes along, so that either file is a whole model.
    averaged = weights | {_bare(name): value for name, value in averages.items()}
    with whole_folder(final) as partial:
        contents: tuple[dict[str, Any], ...] = (weights, averaged, tensors)
        for name, content in zip(TENSOR_FILES, contents, strict=True):
            write_tensors(content, partial / name)
        paths = [partial / name for name in TENSOR_FILES]
        state = CheckpointState(
            step=step,
            transformer=architecture,
            run=run_config,
            files={path.name: FileMark(size=path.stat().st_size, sha256=_sha256(path)) for path in paths},
        )
        (partial / STATE).write_text(state.model_dump_json(indent=1), encoding="utf-8")
    for old in list_checkpoints(run)[:-keep]:
        _remove(old)
    return final


def _remove(checkpoint: Path) -> None:
    """Renames it first: what an interruption leaves must not look complete."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(checkpoint.name + ".partial")))


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel) -> int:
    """Restores everything in place and returns the step.

    Raises:
        ValueError: tensors are missing, of another shape, too many or not finite.
    """
    state = read_state(checkpoint)
    if state.files is None:
        logger.warning("%s was written by version 0.1, without digests: its files were not checked.", checkpoint)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    shapes = {_bare(name): value.shape for name, value in model.state_dict().items() if name not in frozen}
    weights: dict[str, Any] = _read(checkpoint / "model.safetensors", shapes)
    averages = _read(checkpoint / "ema.safetensors", shapes)
    _load_moments(checkpoint / "optimizer.safetensors", model, optimizer)
    set_model_state_dict(model, weights, options=FULL_ON_CPU)
    names = [_bare(name) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, shadow in zip(names, ema.shadow_params, strict=True):
        _scatter(averages[name], shadow)
    ema.optimization_step = state.step  # one a step
    return state.step


def _load_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restores the optimizer's moments; learning rates and the like stay the config's."""
    fresh: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    tensors = read_tensors(path)
    saved = {name.rpartition("/")[0] for name in tensors}
    # A fusion that was frozen all along has none.
    there = [name for name in fresh["state"] if name in saved or not name.startswith("fusion.")]
    shapes = {
        f"{name}/{key}": torch.as_tensor(value).shape for name in there for key, value in fresh["state"][name].items()
    }
    check_tensors(tensors, shapes, path)
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in there}
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        moments[name][key] = value
    wanted = {"state": moments, "param_groups": fresh["param_groups"]}
    set_optimizer_state_dict(model, optimizer, wanted, options=SOME_FULL_ON_CPU)
    for name, parameter in model.named_parameters():
        if _bare(name) not in moments:
            optimizer.state.pop(parameter, None)


def _read(path: Path, shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    tensors = read_tensors(path)
    check_tensors(tensors, shapes, path)
    return tensors


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
