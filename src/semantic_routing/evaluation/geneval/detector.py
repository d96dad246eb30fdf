"""Mask2Former from `transformers`, read out the way GenEval's own detector does.

The library's post-processing is not used: it squeezes masks into 384 x 384 pixels and rounds scores.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, Mask2FormerForUniversalSegmentation

from .judging import Detection
from .options import DEFAULT_DETECTOR
from .records import CLASSES

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Images are scaled, up or down, so that neither side exceeds these pixels."""
DIVISOR = 32
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
MAX_INSTANCES = 100


MASKS_AT_ONCE = 8
"""Masks that are enlarged together: at 1024 x 1024 one takes 4 MiB, and all hundred took 2 GiB on their way."""


class Instances(NamedTuple):
    """What is in an image: `masks[i]` belongs to `detections[i]` and has the image's own size."""

    detections: list[Detection]
    masks: list[NDArray[np.bool_]]


class Mask2FormerDetector:
    """Finds instances of COCO's classes.

    Args:
        name: folder or hub name of a `Mask2FormerForUniversalSegmentation` trained on COCO instances.
        device: where to compute; always in float32, since scores near a threshold flip in less.

    Raises:
        ValueError: the model's labels are not COCO's 80.
    """

    def __init__(self, name: str = DEFAULT_DETECTOR, device: str = "cpu") -> None:
        labels = AutoConfig.from_pretrained(name, trust_remote_code=False).id2label
        # Names are spelt in several ways; the order is the same everywhere.
        if len(labels) != len(CLASSES) or (labels[0], labels[79]) != (CLASSES[0], CLASSES[79]):
            raise ValueError(
                f"Detector {name} has {len(labels)} labels, the first {labels[0]!r}; "
                "COCO's 80 from person to toothbrush are wanted."
            )
        model: Any = Mask2FormerForUniversalSegmentation.from_pretrained(name, dtype=torch.float32)
        self.name = name
        self.model = model.to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, image: Image.Image, least: float = 0.0) -> Instances:
        """The instances among an RGB image's hundred likeliest that may score more than `least`."""
        pixels = resize(image)
        height, width = pixels.shape[1:]
        padded = F.pad(pixels, (0, -width % DIVISOR, 0, -height % DIVISOR))
        output = self.model(pixel_values=padded[None].to(self.device))

        def masks_of(queries: Int[Tensor, " some"]) -> Float[Tensor, "some height width"]:
            logits = output.masks_queries_logits[0, queries]
            return enlarge(logits, padded.shape[1:], (height, width), (image.height, image.width))

        return read_out(output.class_queries_logits[0], masks_of, least)


def resize(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """The image at the detector's scale, normalized: bilinear between neighboring pixels also where it shrinks."""
    factor = min(SHORT_SIDE / min(image.size), LONG_SIDE / max(image.size))
    height, width = (int(side * factor + 0.5) for side in (image.height, image.width))
    pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)
    pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False)[0]
    # Whole grey levels, as a resized picture has them.
    pixels = pixels.round() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def enlarge(
    logits: Float[Tensor, "masks rows columns"],
    padded: Sequence[int],
    scaled: tuple[int, int],
    size: tuple[int, int],
) -> Float[Tensor, "masks height width"]:
    """Logits of masks at an image's own size.

    Args:
        logits: as the network gives them.
        padded: height and width of its input.
        scaled: height and width of the image in it.
        size: the image's own height and width.
    """
    logits = F.interpolate(logits[None], padded, mode="bilinear", align_corners=False)
    return F.interpolate(logits[..., : scaled[0], : scaled[1]], size, mode="bilinear", align_corners=False)[0]


def read_out(
    class_logits: Float[Tensor, "queries classes_and_none"],
    masks_of: Callable[[Int[Tensor, " some"]], Float[Tensor, "some height width"]],
    least: float = 0.0,
) -> Instances:
    """The best pairs of query and class; one query can appear under several classes.

    Args:
        class_logits: of all queries.
        masks_of: logits of some queries' masks.
        least: pairs that cannot score more are left out before their masks are made.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]
    num_classes = probabilities.shape[1]
    best, pairs = probabilities.flatten().topk(min(MAX_INSTANCES, probabilities.numel()))
    # A mask's quality is 1 at most, but for rounding.
    can_pass = best * 1.001 > least
    best, queries, classes = best[can_pass], pairs[can_pass] // num_classes, pairs[can_pass] % num_classes
    found: dict[int, _Found] = {}
    distinct = list(dict.fromkeys(queries.tolist()))
    for start in range(0, len(distinct), MASKS_AT_ONCE):
        some = distinct[start : start + MASKS_AT_ONCE]
        found |= zip(some, map(_measure, masks_of(torch.tensor(some))), strict=True)
    detections = [
        Detection(CLASSES[label], float(probability * found[query].quality), found[query].box)
        for query, label, probability in zip(queries.tolist(), classes.tolist(), best, strict=True)
    ]
    return Instances(detections, [found[query].mask for query in queries.tolist()])


class _Found(NamedTuple):
    """A mask, how certain its pixels are on average, and its box."""

    mask: NDArray[np.bool_]
    quality: Float[Tensor, ""]
    box: tuple[float, float, float, float]


def _measure(logits: Float[Tensor, "height width"]) -> _Found:
    mask = logits > 0
    quality = (logits.sigmoid() * mask).sum() / (mask.sum() + 1e-6)
    on_cpu = mask.cpu()
    return _Found(on_cpu.numpy(), quality, _extent(on_cpu))


def _extent(mask: Bool[Tensor, "height width"]) -> tuple[float, float, float, float]:
    """The smallest box around a mask, its far edges exclusive; zeros for an empty one."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1
