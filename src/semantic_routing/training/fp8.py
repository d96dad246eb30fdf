"""Products of matrices in eight bits, by torchao."""

from importlib.util import find_spec

import torch
from torch import nn

from ..io.extras import how_to_install

CAPABILITY = (8, 9)  # of the first GPUs that multiply in eight bits: Ada and Hopper
MULTIPLE = 16  # of both sides of a matrix


def check_fp8(device: torch.device) -> None:
    """Refuses a device that does not multiply in eight bits, and a missing torchao.

    Raises:
        ValueError: saying which.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        raise ValueError(f"training.fp8 needs a GPU of compute capability 8.9 or more, and this run is on {device}.")
    if find_spec("torchao") is None:
        raise ValueError(f"training.fp8 needs torchao: {how_to_install('torchao')}")


def use_fp8(blocks: nn.ModuleList) -> None:
    """Lets the blocks' linear layers multiply in eight bits, forward and backward; their weights stay as they are."""
    from torchao.float8 import convert_to_float8_training

    def is_wanted(module: nn.Module, name: str) -> bool:
        sides = (module.in_features, module.out_features) if isinstance(module, nn.Linear) else (1,)
        return not any(side % MULTIPLE for side in sides)

    convert_to_float8_training(blocks, module_filter_fn=is_wanted)
