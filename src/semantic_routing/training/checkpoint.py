"""Checkpoints: whole or not there at all, safetensors and JSON only, independent of the number of processes.

    checkpoint-00001000/
      model.safetensors       the weights
      ema.safetensors         their exponential moving average
      optimizer.safetensors   the optimizer's moments, by parameter name
      state.json              step, the run's config, the transformer's configuration; size and digest of each file

A sharded checkpoint has a file of tensors a process in place of the three, see `sharded`. Either goes on in any number
of processes. Tensors in shards are named by the file that they would be in: `model/`, `ema/` and `optimizer/`.

Weights that are not trained, as those of a host beside its fusion, are not kept.

There is no random state to keep: all randomness is a function of the seed and an example's number. Learning rates and
the optimizer's other numbers are the config's.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from ..io.files import PARTIAL, JsonObject, whole_folder
from ..io.messages import brief
from ..io.tensors import check_finite, check_shapes, check_tensors, read_tensors, write_tensors
from ..models import DiffusionTransformer2DModel
from .sharded import SHARDS, read_shards, read_whole, stored_shapes, write_shards

logger = logging.getLogger(__name__)

PATTERN = re.compile(r"checkpoint-(\d+)")
STATE = "state.json"
PARTS = ("model", "ema", "optimizer")
TENSOR_FILES = tuple(f"{part}.safetensors" for part in PARTS)
FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
# Parameters that got no gradient have no moments.
SOME_FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)
AS_HELD = StateDictOptions(ignore_frozen_params=True)
SOME_AS_HELD = StateDictOptions(ignore_frozen_params=True, strict=False)


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
    sharded: bool = False
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
        names = tuple(state.files or {}) if state.sharded else TENSOR_FILES
        for path in checkpoint.glob(SHARDS):
            if path.name not in names:
                return f"{path} is not of this checkpoint: {checkpoint / STATE} does not know it."
        for name in names:
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
    keep: int,
    form: Literal["whole", "sharded"] = "whole",
) -> Path:
    """Writes a checkpoint beside the others and removes all but the newest `keep`.

    All processes take part. One of them gathers the whole tensors and writes them, or each writes its shards; either
    way under a temporary name until all of it is on disk. Older checkpoints go only after that.
    """
    final = run / f"checkpoint-{step:08d}"
    processes, sharded = PartialState(), form == "sharded"
    # A run that took no step since it was resumed has its checkpoint already.
    if any(gather_object([processes.is_main_process and final.exists()])):
        return final
    tensors = _tensors(model, optimizer, ema, sharded)
    if not (sharded or processes.is_main_process):
        return final
    if processes.is_main_process:
        for left in run.glob(f"checkpoint-*{PARTIAL}"):  # by an interruption
            shutil.rmtree(left)
    with whole_folder(final) if processes.is_main_process else nullcontext(Path(f"{final}{PARTIAL}")) as partial:
        marks = _write_shards(tensors, partial) if sharded else _write_whole(tensors, partial)
        if processes.is_main_process:
            state = CheckpointState(
                step=step, transformer=dict(architecture), run=run_config, sharded=sharded, files=marks
            )
            (partial / STATE).write_text(state.model_dump_json(indent=1), encoding="utf-8")
    if processes.is_main_process:
        for old in list_checkpoints(run)[:-keep]:
            _remove(old)
    return final


def _tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel, sharded: bool
) -> dict[str, dict[str, Tensor]]:
    """What each part of a checkpoint holds: as this process holds it, or whole on the CPU of the first process."""
    options = AS_HELD if sharded else FULL_ON_CPU
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    untouched = not optimizer.state
    found: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    moments = found.get("state", {})  # what is gathered comes to the first process alone
    if untouched:
        # Asking for moments that are not there yet makes them by a step of size zero, which is no step of training.
        for state in (*optimizer.state.values(), *moments.values()):
            if "step" in state:  # Muon counts none
                state["step"].zero_()
    averages = {name: value if sharded else gather(value) for name, value in _averages(model, ema).items()}
    # What is not averaged (buffers) comes along, so that either part is a whole model.
    others = {name: torch.clone(value) for name, value in weights.items() if name not in averages}
    return {"model": weights, "ema": averages | others, "optimizer": _flat(moments)}


def _averages(model: nn.Module, ema: EMAModel) -> dict[str, Tensor]:
    """The averages by the names of their parameters."""
    names = [_bare(name) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return dict(zip(names, ema.shadow_params, strict=True))


def _flat(moments: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """An optimizer's state, by parameter, as tensors that are named `parameter/key`."""
    return {f"{name}/{key}": torch.as_tensor(value) for name, state in moments.items() for key, value in state.items()}


def _write_whole(tensors: Mapping[str, Mapping[str, Tensor]], folder: Path) -> dict[str, FileMark]:
    for part, name in zip(PARTS, TENSOR_FILES, strict=True):
        write_tensors(tensors[part], folder / name)
    return _marks([folder / name for name in TENSOR_FILES])


def _write_shards(tensors: Mapping[str, Mapping[str, Tensor]], folder: Path) -> dict[str, FileMark]:
    """Writes what this process holds, and returns the marks of all files."""
    processes = PartialState()
    processes.wait_for_everyone()  # until there is a folder
    write_shards(_in_parts(tensors), folder)
    processes.wait_for_everyone()
    own = sorted(folder.glob(SHARDS))[processes.process_index :: processes.num_processes]
    marks: dict[str, FileMark] = {}
    for others in gather_object([_marks(own)]):
        marks |= others
    return marks


def _in_parts(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}/{name}": value for part, found in tensors.items() for name, value in found.items()}


def _marks(paths: Sequence[Path]) -> dict[str, FileMark]:
    return {path.name: FileMark(size=path.stat().st_size, sha256=_sha256(path)) for path in paths}


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
    if state.sharded:
        _load_shards(checkpoint, model, optimizer, ema)
    else:
        _load_whole(checkpoint, model, optimizer, ema)
    ema.optimization_step = state.step  # one a step
    return state.step


def _load_whole(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel) -> None:
    weights: dict[str, Any] = read_weights(checkpoint, "model", model)
    averages = read_weights(checkpoint, "ema", model)
    _load_moments(checkpoint / "optimizer.safetensors", model, optimizer)
    set_model_state_dict(model, weights, options=FULL_ON_CPU)
    for name, shadow in _averages(model, ema).items():
        _scatter(averages[name], shadow)


def _load_shards(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel) -> None:
    weights: dict[str, Any] = get_model_state_dict(model, options=AS_HELD)
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=AS_HELD)
    averages = _averages(model, ema)
    others = {name: torch.clone(value) for name, value in weights.items() if name not in averages}
    stored = stored_shapes(checkpoint)
    learned = {name.rpartition("/")[0].removeprefix("optimizer/") for name in stored if name.startswith("optimizer/")}
    moments["state"] = _that_learned(moments["state"], learned)
    held = _in_parts({"model": weights, "ema": averages | others, "optimizer": _flat(moments["state"])})
    check_shapes(stored, {name: value.shape for name, value in held.items()}, checkpoint)
    read_shards(held, checkpoint)
    own = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in held.items()}
    check_finite(own.items(), checkpoint)
    set_model_state_dict(model, weights, options=SOME_AS_HELD)
    _set_moments(model, optimizer, moments, SOME_AS_HELD)


def _that_learned(fresh: Mapping[str, Any], saved: set[str]) -> dict[str, Any]:
    """The states that a checkpoint must have: a fusion that was frozen all along has none."""
    return {name: state for name, state in fresh.items() if name in saved or not name.startswith("fusion.")}


def _set_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Any], options: StateDictOptions
) -> None:
    set_optimizer_state_dict(model, optimizer, moments, options=options)
    for name, parameter in model.named_parameters():
        if _bare(name) not in moments["state"]:
            optimizer.state.pop(parameter, None)


def read_weights(checkpoint: Path, part: Literal["model", "ema"], model: nn.Module) -> dict[str, Tensor]:
    """The trained weights of a model, or their average, whole, on the CPU of this process.

    Raises:
        ValueError: tensors are missing, of another shape, too many or not finite.
    """
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    shapes = {_bare(name): value.shape for name, value in model.state_dict().items() if name not in frozen}
    if read_state(checkpoint).sharded:
        path, tensors = checkpoint / part, read_whole(checkpoint, f"{part}/")
    else:
        path = checkpoint / f"{part}.safetensors"
        tensors = read_tensors(path)
    check_tensors(tensors, shapes, path)
    return tensors


def _load_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restores the optimizer's moments; learning rates and the like stay the config's."""
    fresh: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    tensors = read_tensors(path)
    there = _that_learned(fresh["state"], {name.rpartition("/")[0] for name in tensors})
    check_tensors(tensors, {name: value.shape for name, value in _flat(there).items()}, path)
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in there}
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        moments[name][key] = value
    _set_moments(model, optimizer, fresh | {"state": moments}, SOME_FULL_ON_CPU)


def _bare(name: str) -> str:
    """A parameter's name without the prefixes of wrappers."""
    return name.removeprefix("module.").replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def gather(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded, on the CPU; all processes take part."""
    if isinstance(tensor, DTensor):
        there: Any = tensor.to(tensor.device_mesh.device_type)  # an average may be on the CPU
        tensor = there.full_tensor()
    return tensor.cpu()


def _scatter(whole: Tensor, target: Tensor) -> None:
    if isinstance(target, DTensor):
        mesh = target.device_mesh
        whole = distribute_tensor(whole.to(mesh.device_type), mesh, target.placements)
    target.copy_(whole)
