"""Whether detections show what a record asks for: a pure function, with the official scorer's verdicts and reasons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .records import COLORS, RELATIONS, Clause, Record

Number = float | int
Box = Sequence[Number]
"""x1, y1, x2, y2 in pixels; y grows downward."""


@dataclass(frozen=True)
class Detection:
    """One instance that the detector found."""

    label: str
    score: Number
    box: Box


@dataclass(frozen=True)
class JudgingOptions:
    """Thresholds, by the official scorer's names and with its defaults."""

    threshold: Number = 0.3
    """Scores must exceed it,"""
    counting_threshold: Number = 0.9
    """and this one in images of the task counting, whatever their class."""
    max_objects: int = 16
    """Instances kept a class."""
    max_overlap: Number = 1.0
    """Instances of a class that overlap a better one by this IoU or more are dropped; at 1 none is."""
    position_threshold: Number = 0.1
    """Share of the two sizes by which centers must lie apart."""


@dataclass
class Verdict:
    """What came of an image."""

    kept: dict[str, list[int]]
    """By class, indices of the detections that count, best first."""
    reasons: list[str] = field(default_factory=list)
    """Everything that is wrong."""
    colors: dict[int, str] = field(default_factory=dict)
    """Of the detections whose color was asked for."""

    @property
    def correct(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons

    @property
    def reason(self) -> str:
        """The reasons, a line each."""
        return "\n".join(self.reasons)


ColorOf = Callable[[Sequence[int]], Sequence[str]]
"""From indices of detections, all of one class, to their colors."""


def judge(
    record: Record,
    detections: Sequence[Detection],
    colors_of: ColorOf,
    options: JudgingOptions | None = None,
) -> Verdict:
    """Judges one image.

    Args:
        record: what the image must show.
        detections: in any order.
        colors_of: asked only about the instances whose color matters.
        options: thresholds; None is the official ones.
    """
    options = options or JudgingOptions()
    verdict = Verdict(keep(record.tag, detections, options))
    groups: list[list[int] | None] = []
    for clause in record.include:
        known = len(verdict.reasons)
        chosen = _check_presence(clause, verdict)
        if chosen is not None and clause.color is not None:
            _check_color(clause, clause.color, chosen, colors_of, verdict)
        if clause.position is not None and len(verdict.reasons) == known:
            relation, target = clause.position
            _check_position(clause, relation, chosen or [], groups[target], detections, options, verdict)
        groups.append(chosen if len(verdict.reasons) == known else None)
    for clause in record.exclude:
        found = len(verdict.kept.get(clause.label, []))
        if found >= clause.count:
            verdict.reasons.append(f"expected {clause.label}<{clause.count}, found {found}")
    return verdict


def _check_presence(clause: Clause, verdict: Verdict) -> list[int] | None:
    """The most confident instances of the clause, as many as it asks for; None and a reason if there are fewer."""
    kept = verdict.kept.get(clause.label, [])
    if len(kept) >= clause.count:
        return kept[: clause.count]
    verdict.reasons.append(f"expected {clause.label}>={clause.count}, found {len(kept)}")
    return None


def _check_color(clause: Clause, wanted: str, chosen: list[int], colors_of: ColorOf, verdict: Verdict) -> None:
    colors = list(colors_of(chosen))
    verdict.colors.update(zip(chosen, colors, strict=True))
    hits = colors.count(wanted)
    if hits < clause.count:
        tally = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
        what = f"{wanted} {clause.label}>={clause.count}"
        verdict.reasons.append(f"expected {what}, found {hits} {wanted}; and {tally}")


def _check_position(
    clause: Clause,
    relation: str,
    chosen: list[int],
    targets: list[int] | None,
    detections: Sequence[Detection],
    options: JudgingOptions,
    verdict: Verdict,
) -> None:
    """Every instance must stand in the relation to every target; only the first pair that does not is reported."""
    if targets is None:
        verdict.reasons.append(f"no target for {clause.label} to be {relation}")
        return
    for instance in chosen:
        for target in targets:
            found = relative_position(detections[instance].box, detections[target].box, options.position_threshold)
            if relation not in found:
                what = f"{clause.label} {relation} target"
                verdict.reasons.append(f"expected {what}, found {' and '.join(found)} target")
                return


def keep(tag: str, detections: Sequence[Detection], options: JudgingOptions) -> dict[str, list[int]]:
    """By class, indices of the detections that count, best first; classes with none are absent."""
    # In float32, as detectors score: 0.3 and 0.9 themselves do not pass.
    threshold = np.float32(options.counting_threshold if tag == "counting" else options.threshold)
    kept: dict[str, list[int]] = {}
    for index in sorted(range(len(detections)), key=lambda index: -detections[index].score):
        if np.float32(detections[index].score) > threshold:
            kept.setdefault(detections[index].label, []).append(index)
    return {
        label: _suppress(indices[: options.max_objects], detections, options.max_overlap)
        for label, indices in kept.items()
        if options.max_objects > 0
    }


def _suppress(indices: list[int], detections: Sequence[Detection], max_overlap: float) -> list[int]:
    """Drops what overlaps a better instance too much."""
    if max_overlap == 1:
        return indices
    kept: list[int] = []
    for index in indices:
        if all(iou(detections[better].box, detections[index].box) < max_overlap for better in kept):
            kept.append(index)
    return kept


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes whose edges are pixels that belong to them."""

    def area(x1: Number, y1: Number, x2: Number, y2: Number) -> Number:
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - shared
    return shared / union if union else 0.0


def relative_position(a: Box, b: Box, margin: Number = 0.1) -> list[str]:
    """Where `a` lies as seen from `b`: none, one or two of `RELATIONS`, in their order.

    Along each axis the offset of the centers is reduced by `margin` times the sum of both sizes, and then measured
    against the length of the whole, unreduced offset.
    """
    corners = np.array([a, b], np.float64).reshape(2, 2, 2)
    offset = corners[0].mean(axis=0) - corners[1].mean(axis=0)
    sizes = np.abs(corners[:, 1] - corners[:, 0]).sum(axis=0)
    reduced = np.sign(offset) * np.maximum(np.abs(offset) - margin * sizes, 0)
    if np.all(np.abs(reduced) < 1e-3):
        return []
    x, y = reduced / np.linalg.norm(offset)
    holds = (x < -0.5, x > 0.5, y < -0.5, y > 0.5)
    return [relation for relation, true in zip(RELATIONS, holds, strict=True) if true]
