"""Training the demo model on a CPU against the plain form: wanted is 1.5 × the images a second.

Each side is a trainer of the demo recipe in a process of its own: plain, then as it is, then with compiled blocks as
well; a round may still compile. Plain is what the recipe was at first: transformer, text encoder and Muon in bfloat16
on every processor, no captions in memory. All make the same steps from the same start, data included, in turns. What is
reported are CPU seconds of each process, of one thread if OMP_NUM_THREADS=1 says so. Before the first step the memory
reads the captions of some earlier examples, since what it saves depends on how many came before; in float32 there is
none.
"""

import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import torch
import typer

from semantic_routing.io.precision import fast_precision
from semantic_routing.training.config import load_config
from semantic_routing.training.subject import OwnModel
from semantic_routing.training.trainer import make_trainer

from . import common
from .report import Report, Row

PLAIN, NOW, COMPILED = "plain", "as it is", "compiled"
WANTED = {(NOW, PLAIN): "≥ 1.5", (COMPILED, PLAIN): "≥ 1.5", (COMPILED, NOW): "≥ 1.0"}


class Trained:
    """A trainer; called, it makes the next step and tells the loss."""

    def __init__(self, config: str, overrides: list[str], plain: bool, seen: int) -> None:
        types = ["training.precision=bfloat16", "text.dtype=bfloat16"] if plain else []
        trainer = make_trainer(load_config(config, [*overrides, *types]))
        assert isinstance(trainer.subject, OwnModel)
        assert trainer.subject.encoder is not None
        encoder = trainer.subject.encoder
        if plain:
            encoder.memory = None
        with trainer.accelerator.autocast():
            for start in range(0, 0 if encoder.memory is None else seen, trainer.micro_batch):
                numbers = range(start, start + trainer.micro_batch)
                encoder([caption for number in numbers for caption in trainer.stream[number].captions])
        self.kept = 0 if encoder.memory is None else encoder.memory.size
        trainer.step = seen // trainer.micro_batch
        self.trainer, self.batches = trainer, trainer._batches()

    def __call__(self) -> float:
        """One step, batch included."""
        return self.trainer._optimizer_step(self.trainer._read(self.batches))[0]


def serve(pipe: Connection, config: str, overrides: list[str], plain: bool, seen: int) -> None:
    """Makes a step each time that it is asked, until it is ended."""
    trained = Trained(config, overrides, plain, seen)
    pipe.send(trained.kept)
    while pipe.recv():
        started = time.process_time()
        loss = trained()
        pipe.send((time.process_time() - started, loss))


class Side:
    """A process with a trainer, since `accelerate` knows one precision a process; called, it makes the next step."""

    def __init__(self, config: str, overrides: list[str], plain: bool, seen: int) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, config, overrides, plain, seen), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of what it sends
        self.kept: int = self.pipe.recv()
        self.losses: list[float] = []

    def __call__(self) -> float:
        """CPU seconds of one step."""
        self.pipe.send(True)
        seconds, loss = self.pipe.recv()
        self.losses.append(loss)
        return float(seconds)


def measure(config: str, batch_size: int, seen: int, names: Sequence[str], rounds: int, folder: Path) -> Report:
    """CPU seconds of a step of each side in `names`.

    Raises:
        RuntimeError: the sides do not learn the same.
    """
    sides = {}
    for number, name in enumerate(names):
        compiles = str(name == COMPILED).lower()
        options = (f"output={folder / str(number)}", f"batch_size={batch_size}", f"compile={compiles}")
        sides[name] = Side(config, [f"training.{option}" for option in options], name == PLAIN, seen)
    seconds = common.alternate(sides, rounds, torch.device("cpu"), lambda side, _: side())
    for name in names[1:]:
        losses, first = (torch.tensor(sides[one].losses) for one in (name, names[0]))
        common.check_agreement(losses, first, 0.02)
    what = "training the demo recipe on a CPU, images a second"
    rows = [
        Row(f"{what}: {name} against {other}", WANTED[name, other], common.ratios(seconds[other], seconds[name]))
        for other, name in combinations(names, 2)
    ]
    notes = [
        f"The recipe's type on this processor: {fast_precision()}. {seen} captions were read before; the memory "
        f"then held {sides[NOW].kept / 2**20:.0f} MiB. CPU seconds."
    ]
    return Report(f"{config}, batch {batch_size}", rows, seconds, notes=notes)


def main(
    config: Annotated[str, typer.Option(help="Recipe.")] = "scenes/demo-objects",
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 128,
    seen: Annotated[int, typer.Option(min=0, help="Captions that the memory read before.")] = 24_000,
    plain: Annotated[bool, typer.Option(help="With the plain side, which takes most of the time.")] = True,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="With the compiled side.")] = True,
    rounds: common.Rounds = 5,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    names = [*([PLAIN] if plain else []), NOW, *([COMPILED] if compiled else [])]
    if len(names) < 2:
        raise ValueError("--no-plain and --no-compile leave nothing to compare.")
    with tempfile.TemporaryDirectory() as folder:
        measure(config, batch_size, seen, names, rounds, Path(folder)).finish(out, torch.device("cpu"))


if __name__ == "__main__":
    common.run(main)
