"""The color of an object: zero-shot classification by CLIP, as GenEval does it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageColor
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from .judging import Box
from .options import BACKGROUND, DEFAULT_CLIP
from .records import COLORS

TEMPLATES = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")
"""The article stays "a" whatever follows."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ClipColors:
    """Names the colors of objects.

    Args:
        name: folder or hub name of a `CLIPModel` with its tokenizer.
        device: where to compute, in float32.
        background: what surrounds an object that is cut out: a color, or "original" for the image itself.
        crop: cut the image to the object's box.
    """

    def __init__(
        self, name: str = DEFAULT_CLIP, device: str = "cpu", background: str = BACKGROUND, crop: bool = True
    ) -> None:
        self.name = name
        model: Any = CLIPModel.from_pretrained(name, dtype=torch.float32)
        self.model = model.to(device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        self.device = device
        self.background = background
        self.crop = crop
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self, image: Image.Image, label: str, boxes: Sequence[Box], masks: Sequence[NDArray[np.bool_] | None]
    ) -> list[str]:
        """The color of each object, all of the class `label`."""
        cut = [
            object_crop(image, box, mask, self.background, self.crop) for box, mask in zip(boxes, masks, strict=True)
        ]
        size = self.model.config.vision_config.image_size
        pixels = torch.stack([preprocess(picture, size) for picture in cut]).to(self.device)
        features = F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        # The first of equals, as `argmax` gives.
        return [COLORS[index] for index in (features @ self._text(label).T).argmax(-1).tolist()]

    def _text(self, label: str) -> Float[Tensor, "colors channels"]:
        """Unit embeddings of the ten colors of `label`, each the mean over the templates."""
        if label not in self._texts:
            sentences = [template.format(color=color, label=label) for color in COLORS for template in TEMPLATES]
            tokens = self.tokenizer(sentences, padding=True, return_tensors="pt").to(self.device)
            found = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            features = F.normalize(found.pooler_output, dim=-1).reshape(len(COLORS), len(TEMPLATES), -1).mean(1)
            self._texts[label] = F.normalize(features, dim=-1)
        return self._texts[label]


def object_crop(
    image: Image.Image, box: Box, mask: NDArray[np.bool_] | None, background: str = BACKGROUND, crop: bool = True
) -> Image.Image:
    """The object before a plain background.

    Args:
        image: RGB.
        box: of the object, rounded to whole pixels (halves to the even one).
        mask: of the object; None leaves the surroundings as they are.
        background: a color, or "original" for the image itself.
        crop: cut to the box.
    """
    if mask is not None and background != "original":
        plain = Image.new("RGB", image.size, ImageColor.getrgb(background))
        image = Image.composite(image, plain, Image.fromarray(mask))
    if not crop:
        return image
    left, top, right, bottom = (round(side) for side in box)
    return image.crop((left, top, right, bottom))


def preprocess(image: Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    """CLIP's own: short side to `size`, bicubic; the middle of the long side; normalized."""
    width, height = image.size
    scale = size / min(width, height)
    width, height = (size if side == min(image.size) else int(side * scale) for side in (width, height))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.array(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return ((torch.from_numpy(pixels) - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(2, 0, 1)
