"""A step of sampling for one image with the demo model, against its products alone: wanted is at most 2 × the time.

A step is a guided prediction, two rows, and the scheduler's own step, between the first and the last of an image. The
other side makes the products of one step again, with the same weights, and nothing else: linear layers, the patches'
convolution and attention. What a step takes beyond them is the price of small operations, each of which costs some
microseconds however little it does. What is reported are CPU seconds of this process, of one thread if
OMP_NUM_THREADS=1 says so.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.pipelines.loading import load_pipeline

from . import common
from .report import Report, Row

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::convolution")
ATTENTION = "scaled_dot_product"


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the products that are made under it, to be made again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Does what is asked, and notes it if it is a product."""
        options = dict(kwargs or {})
        if func.name() in PRODUCTS or ATTENTION in func.name():
            self.made.append(lambda: func(*args, **options))
        return func(*args, **options)

    @torch.no_grad()
    def __call__(self) -> None:
        """All of them."""
        for product in self.made:
            product()


class Image:
    """One guided image; called, it samples it and tells the seconds of a step."""

    def __init__(self, pipeline: SemanticRoutingPipeline, prompt: str, steps: int) -> None:
        self.pipeline, self.prompt, self.steps = pipeline, prompt, steps
        pipeline.set_progress_bar_config(disable=True)

    def __call__(self, on_step_end: Callable[[], object]) -> None:
        """Samples."""

        def called(*_: object) -> dict[str, Tensor]:
            on_step_end()
            return {}

        self.pipeline(
            self.prompt,
            num_inference_steps=self.steps,
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=called,
            output_type="latent",
        )

    def products(self) -> Products:
        """Those of the last step."""
        products = Products()

        def forget() -> None:
            last.append(list(products.made))
            products.made.clear()

        last: list[list[Callable[[], object]]] = []
        with products:
            self(forget)
        products.made = last[-1]
        return products

    def step_seconds(self) -> float:
        """The mean over all steps but the first."""
        ends: list[float] = []
        self(lambda: ends.append(time.process_time()))
        return (ends[-1] - ends[0]) / (len(ends) - 1)


def measure(pipeline: SemanticRoutingPipeline, prompt: str, steps: int, rounds: int) -> Report:
    """CPU seconds of a step and of its products."""
    image = Image(pipeline, prompt, steps)
    products = image.products()

    def products_seconds() -> float:
        started = time.process_time()
        for _ in range(steps):
            products()
        return (time.process_time() - started) / steps

    sides: dict[str, Callable[[], float]] = {"a step": image.step_seconds, "its products": products_seconds}
    seconds = common.alternate(sides, rounds, torch.device("cpu"), lambda side, _: side())
    what = "a step for one image of the demo model, against its products: time"
    notes = [f"{len(products.made)} products a step; one guided image in {steps} steps. CPU seconds."]
    row = Row(what, "≤ 2", common.ratios(seconds["a step"], seconds["its products"]), 1.0)
    return Report("demo, float32", [row], seconds, notes=notes)


def main(
    pipeline: Annotated[str, typer.Option(help="Folder, hub name or demo.")] = "demo",
    prompt: Annotated[str, typer.Option(help="Of the image.")] = "a red circle",
    steps: Annotated[int, typer.Option(min=2, help="Euler steps; all but the first are timed.")] = 30,
    rounds: common.Rounds = 10,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    measure(load_pipeline(pipeline, device="cpu"), prompt, steps, rounds).finish(out, torch.device("cpu"))


if __name__ == "__main__":
    common.run(main)
