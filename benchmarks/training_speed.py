"""Training the demo model on a CPU, with and without what makes it fast: wanted is 1.5 × the images a second.

Each side is a trainer of the demo recipe in one process: plain, then with features of captions in memory, then with
compiled blocks as well. All make the same steps from the same start, data included, in turns. What is reported are CPU
seconds of this process, of one thread if OMP_NUM_THREADS=1 says so. Before the first step the memory reads the captions
of some earlier examples, since what it saves depends on how many came before.

Losses of the first two sides must be the same to the bit.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from semantic_routing.training.config import load_config
from semantic_routing.training.subject import OwnModel
from semantic_routing.training.trainer import make_trainer

from . import common
from .report import Report, Row

PLAIN, REMEMBERED, COMPILED = "plain", "captions in memory", "captions in memory, compiled"


class Side:
    """A trainer and the losses of its steps; called, it makes the next one."""

    def __init__(self, config: str, overrides: list[str], remembers: bool, seen: int) -> None:
        trainer = make_trainer(load_config(config, overrides))
        assert isinstance(trainer.subject, OwnModel)
        assert trainer.subject.encoder is not None
        self.encoder = trainer.subject.encoder
        if not remembers:
            self.encoder.memory = None
        with trainer.accelerator.autocast():
            for start in range(0, seen if remembers else 0, trainer.micro_batch):
                numbers = range(start, start + trainer.micro_batch)
                self.encoder([caption for number in numbers for caption in trainer.stream[number].captions])
        trainer.step = seen // trainer.micro_batch
        self.losses: list[float] = []
        self.trainer, self.batches = trainer, trainer._batches()

    def __call__(self) -> None:
        """One step, batch included."""
        self.losses.append(self.trainer._optimizer_step(self.trainer._read(self.batches))[0])


def measure(config: str, batch_size: int, seen: int, compiled: bool, rounds: int, folder: Path) -> Report:
    """CPU seconds of a step of each side.

    Raises:
        RuntimeError: features from memory gave another loss.
    """
    names = (PLAIN, REMEMBERED, COMPILED) if compiled else (PLAIN, REMEMBERED)
    sides = {}
    for number, name in enumerate(names):
        compiles = str(name == COMPILED).lower()
        options = (f"output={folder / str(number)}", f"batch_size={batch_size}", f"compile={compiles}")
        sides[name] = Side(config, [f"training.{option}" for option in options], name != PLAIN, seen)
    seconds = common.alternate(sides, rounds, torch.device("cpu"), clock=time.process_time)
    plain, remembered = sides[PLAIN], sides[REMEMBERED]
    if plain.losses != remembered.losses:
        raise RuntimeError(f"Features from memory changed the losses {plain.losses} to {remembered.losses}.")
    what = "training the demo recipe on a CPU, images a second against the plain form"
    rows = [Row(f"{what}: {name}", "≥ 1.5", common.ratios(seconds[PLAIN], seconds[name])) for name in names[1:]]
    memory = remembered.encoder.memory
    size = 0 if memory is None else memory.size
    notes = [f"{seen} captions were read before; the memory then held {size / 2**20:.0f} MiB. CPU seconds."]
    return Report(f"{config}, batch {batch_size}", rows, seconds, notes=notes)


def main(
    config: Annotated[str, typer.Option(help="Recipe, in half precision.")] = "scenes/demo-objects",
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 128,
    seen: Annotated[int, typer.Option(min=0, help="Captions that the memory read before.")] = 24_000,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="With the compiled side.")] = True,
    rounds: common.Rounds = 5,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    with tempfile.TemporaryDirectory() as folder:
        measure(config, batch_size, seen, compiled, rounds, Path(folder)).finish(out, torch.device("cpu"))


if __name__ == "__main__":
    common.run(main)
