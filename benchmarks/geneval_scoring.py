"""Reading out GenEval's detector, beside its forward pass, against all hundred masks at once: time and memory.

The detector's output is made up: a hundred queries with the masks of ellipses, of which some are likely objects. Both
sides enlarge masks twice, to the network's input and to the picture's own size, and measure each. Ours does so for the
queries that can pass the threshold, some at a time; the plain side does so for all hundred at once.

Memory is the peak beyond the network's output.
"""

from collections.abc import Callable
from typing import Annotated

import torch
import typer
from jaxtyping import Float
from torch import Tensor

from semantic_routing.evaluation.geneval.detector import Instances, enlarge, read_out
from semantic_routing.evaluation.geneval.judging import Detection
from semantic_routing.evaluation.geneval.records import CLASSES

from . import common
from .report import Report, Row

QUERIES, THRESHOLD = 100, 0.3
SCALED, STRIDE = 800, 4
"""Pixels a side of the network's input for a square picture, and how much coarser its masks are."""

MasksOf = Callable[[Tensor], Tensor]


def make_output(
    likely: int, generator: torch.Generator
) -> tuple[Float[Tensor, "queries classes_and_none"], Float[Tensor, "queries rows columns"]]:
    """Logits of classes and masks, with `likely` queries of which one class has nearly all the probability."""
    classes = torch.randn(QUERIES, len(CLASSES) + 1, generator=generator)
    classes[:, -1] += 8
    chosen = torch.randperm(QUERIES, generator=generator)[:likely]
    classes[chosen, torch.randint(len(CLASSES), (likely,), generator=generator)] += 16
    side = torch.linspace(0, 1, SCALED // STRIDE)
    rows, columns, heights, widths = torch.rand(4, QUERIES, 1, 1, generator=generator)
    distance = ((side[:, None] - rows) / (0.05 + heights / 3)) ** 2 + ((side - columns) / (0.05 + widths / 3)) ** 2
    return classes, 6 * (1 - distance).clamp(min=-2)


def read_out_all(class_logits: Tensor, masks_of: MasksOf) -> Instances:
    """The plain way: every mask at full size, whether or not its object can pass."""
    probabilities = class_logits.softmax(-1)[:, :-1]
    best, pairs = probabilities.flatten().topk(QUERIES)
    queries, classes = pairs // len(CLASSES), pairs % len(CLASSES)
    logits = masks_of(torch.arange(QUERIES))
    masks = logits > 0
    scores = best * ((logits.sigmoid() * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6))[queries]
    boxes = []
    for mask in masks:
        inside = mask.nonzero()
        if len(inside):
            (top, left), (bottom, right) = inside.min(0).values.tolist(), inside.max(0).values.tolist()
        boxes.append((float(left), float(top), right + 1.0, bottom + 1.0) if len(inside) else (0.0,) * 4)
    found = [
        Detection(CLASSES[label], score, boxes[query])
        for query, label, score in zip(queries.tolist(), classes.tolist(), scores.tolist(), strict=True)
    ]
    return Instances(found, list(masks[queries].numpy()))


def check_same(ours: Instances, plain: Instances) -> int:
    """The number of objects above the threshold.

    Raises:
        RuntimeError: the sides find different ones.
    """
    listed = [
        [
            (detection.label, detection.box, round(detection.score, 4), mask.tobytes())
            for detection, mask in zip(*side, strict=True)
            if detection.score > THRESHOLD
        ]
        for side in (ours, plain)
    ]
    if listed[0] != listed[1]:
        raise RuntimeError(f"The two sides find {len(listed[0])} and {len(listed[1])} objects that are not the same.")
    return len(listed[0])


def main(
    size: Annotated[int, typer.Option(min=16, help="Pixels a side of the picture.")] = 1024,
    likely: Annotated[int, typer.Option(min=1, max=QUERIES, help="Queries that are likely objects.")] = 10,
    rounds: common.Rounds = 3,
    out: common.Out = common.OUT,
) -> None:
    """See above."""
    device = torch.device("cpu")
    classes, masks = make_output(likely, torch.Generator().manual_seed(0))

    def masks_of(queries: Tensor) -> Tensor:
        return enlarge(masks[queries], (SCALED, SCALED), (SCALED, SCALED), (size, size))

    sides: dict[str, Callable[[], Instances]] = {
        "ours": lambda: read_out(classes, masks_of, THRESHOLD),
        "all at once": lambda: read_out_all(classes, masks_of),
    }
    peaks = common.peaks(sides, device)
    objects = check_same(*(side() for side in sides.values()))
    seconds = common.alternate(sides, rounds, device, common.cpu_timed)
    what = f"GenEval's read-out of a {size}² picture, {likely} likely objects of {QUERIES}, against all masks at once"
    rows = [Row(f"{what}: CPU time", "≤ 0.5", common.ratios(*seconds.values()))]
    notes = [f"Both sides find the same {objects} objects, with the same masks."]
    if peaks:
        rows.append(Row(f"{what}: memory beyond the forward pass", "≤ 0.25", [peaks["ours"] / peaks["all at once"]]))
        notes.append(", ".join(f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks.items()) + ".")
    notes.append(", ".join(f"{name} {common.median(each):.2f} s" for name, each in seconds.items()) + ".")
    Report(f"picture {size}², masks {SCALED // STRIDE}²", rows, seconds, peaks, {}, notes).finish(out, device)


if __name__ == "__main__":
    common.run(main)
