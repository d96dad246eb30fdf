"""Trains with FSDP2 on CPUs, which accelerate offers on accelerators only: it is told that these are some."""

import sys
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from semantic_routing.cli import main

original = AcceleratorState.__init__


def with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    fresh = not self.initialized
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fresh:
        # As it does where it finds GPUs.
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


AcceleratorState.__init__ = with_fsdp

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
