"""Trains with FSDP2 on CPUs, which accelerate offers on accelerators only: it is told that these are some.

`--then` begins the arguments of another run in the same processes, which saves their start. Processes wait for each
other for WAIT_SECONDS, if that is in the environment.
"""

import os
import sys
from datetime import timedelta
from itertools import groupby
from typing import Any

from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType

from semantic_routing.cli import main
from semantic_routing.training import trainer

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
if "WAIT_SECONDS" in os.environ:
    trainer.WAIT = timedelta(seconds=int(os.environ["WAIT_SECONDS"]))


def run(arguments: list[str]) -> None:
    sys.argv[1:] = ["train", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


if __name__ == "__main__":
    PartialState.destroy_process_group = lambda self, group=None: None  # the next run needs it
    for is_between, words in groupby(sys.argv[1:], lambda word: word == "--then"):
        if not is_between:
            run(list(words))
