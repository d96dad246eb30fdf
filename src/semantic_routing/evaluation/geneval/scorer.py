"""GenEval's models and its judging put together: an image and a record in, the official verdict out."""

from collections.abc import Sequence

import torch
from PIL import Image

from ...io.files import JsonObject
from ..network_names import named_by
from .colors import ClipColors
from .detector import Mask2FormerDetector
from .judging import judge
from .options import ScorerOptions
from .records import Record


class Scorer:
    """Judges images by record.

    Args:
        options: models and thresholds.
        device: where to compute; None is cuda where there is one.
    """

    def __init__(self, options: ScorerOptions, device: str | None = None) -> None:
        self.options = options
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with named_by("--detector", options.detector):
            self.detector = Mask2FormerDetector(options.detector, device)
        with named_by("--clip", options.clip_model):
            self.colors = ClipColors(options.clip_model, device, options.background, options.crop)

    def __call__(self, image: Image.Image, record: Record) -> JsonObject:
        """The outcome for an RGB image: `correct`, `reason`, `details` of the kept instances, and colors."""
        judging = self.options.judging
        detections, masks = self.detector(image, min(judging.threshold, judging.counting_threshold))

        def colors_of(chosen: Sequence[int]) -> list[str]:
            boxes = [detections[index].box for index in chosen]
            return self.colors(image, detections[chosen[0]].label, boxes, [masks[index] for index in chosen])

        verdict = judge(record, detections, colors_of, judging)
        details = {
            label: [[*detections[index].box, detections[index].score] for index in indices]
            for label, indices in verdict.kept.items()
        }
        colors = [[detections[index].label, color] for index, color in verdict.colors.items()]
        return {"correct": verdict.correct, "reason": verdict.reason, "details": details, "colors": colors}
