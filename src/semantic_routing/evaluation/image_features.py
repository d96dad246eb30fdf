"""Features of images by named models, and distances between two sets of them: FID, KID and CMMD.

`torchmetrics` computes FID and KID; its Inception network comes from `torch-fidelity`. CLIP, and any other network of
images, comes from `transformers`.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, BaseImageProcessor, CLIPModel

from ..io.extras import how_to_install
from ..io.images import read_image
from ..io.tensors import weights_digest
from .network_names import named_by

INCEPTION = "inception"
"""FID's own network: its TensorFlow weights of 2015-12-05, as `torch-fidelity` brings them."""
INCEPTION_WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
BATCH = 32
SUBSETS, SUBSET_SIZE = 100, 1000
"""Of KID, as published."""
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0

Features = Float[Tensor, "images channels"]
Real = Float[Tensor, "real_images channels"]
Made = Float[Tensor, "made_images channels"]


class Clip:
    """Unit embeddings of images and texts.

    Args:
        name: folder or hub name of a `CLIPModel` with its processor and tokenizer.
        device: where to compute, in float32; None is cuda where there is one.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name = name
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = CLIPModel.from_pretrained(name, dtype=torch.float32)
        self.model = model.to(self.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(name)

    @cached_property
    def processor(self) -> BaseImageProcessor:
        """Prepares images."""
        return _image_processor(self.name)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Features:
        """Embeddings of RGB images."""
        pixels = self.processor(images=list(images), return_tensors="pt").pixel_values.to(self.device)
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1).cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Features:
        """Embeddings of texts, cut to the model's length."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        found = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return F.normalize(found.pooler_output, dim=-1).cpu()

    def describe(self) -> dict[str, str | None]:
        """Name, revision, and the weights' digest."""
        return {"model": self.name, **self._version}

    @cached_property
    def _version(self) -> dict[str, str | None]:
        return _version(self.model)


def is_inception(name: str) -> bool:
    """Whether a name of `--features` means FID's own network, with its published weights or with those of a file."""
    return name == INCEPTION or Path(name).is_file()


class FrozenNetwork:
    """Features of FID and KID: the Inception network, or the pooled output of any image model of `transformers`.

    Args:
        name: `INCEPTION`, a file with weights of that network, or a folder or hub name.
        device: where to compute; None is cuda where there is one.

    Raises:
        ValueError: the network cannot be loaded, or Inception's package is not installed.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name = name
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.is_inception = is_inception(name)
        if self.is_inception:
            self.model = _inception(name).to(self.device)
        else:
            with named_by("--features", name):
                model: Any = AutoModel.from_pretrained(name, dtype=torch.float32)
                self.processor = _image_processor(name)
            self.model = model.to(self.device).eval()

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Features:
        """Features of RGB images."""
        if self.is_inception:
            # One by one: they may differ in size, and the network resizes them itself, as FID's always has.
            pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self.device) for image in images]
            return torch.cat([self.model(each) for each in pixels]).float().cpu()
        pixels = self.processor(images=list(images), return_tensors="pt").pixel_values.to(self.device)
        if isinstance(self.model, CLIPModel):
            return self.model.get_image_features(pixel_values=pixels).pooler_output.cpu()
        return self.model(pixel_values=pixels).pooler_output.flatten(1).cpu()

    def describe(self) -> dict[str, str | None]:
        """Name, revision, and the weights' digest."""
        if self.is_inception:
            revision = "2015-12-05" if self.name == INCEPTION else Path(self.name).name
            return {"model": "inception-v3-compat", "revision": revision, "weights": weights_digest(self.model)}
        return {"model": self.name, **_version(self.model)}


def _version(model: Any) -> dict[str, str | None]:
    return {"revision": getattr(model.config, "_commit_hash", None), "weights": weights_digest(model)}


def _image_processor(name: str) -> BaseImageProcessor:
    processors: Any = AutoImageProcessor
    # Pillow's, as the models were trained with; the other one needs torchvision.
    return processors.from_pretrained(name, backend="pil")


def inception_weights(name: str) -> Path:
    """The file of FID's own network: the one that is named, or the published one, which is downloaded if need be.

    Raises:
        ValueError: `torch-fidelity` is not installed, or the file is not at hand.
    """
    if find_spec("torch_fidelity") is None:
        raise ValueError(f"FID and KID by Inception need torch-fidelity: {how_to_install('torch-fidelity')}")
    if name != INCEPTION:
        return Path(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(INCEPTION_WEIGHTS).name
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_WEIGHTS, str(path), progress=False)
    except OSError as error:
        raise ValueError(
            f"Inception's weights are not at hand ({error}); put {INCEPTION_WEIGHTS} into {path.parent}, or name the "
            "file by --features."
        ) from error
    return path


def _inception(name: str) -> nn.Module:
    path = inception_weights(name)
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        # torch-fidelity runs whatever code a file brings: only one that holds tensors alone is handed to it.
        torch.load(path, map_location="cpu", weights_only=True)
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        why = str(error).splitlines()[0].rstrip(".:")
        raise ValueError(f"{path} does not hold the weights of FID's Inception network ({why}).") from error


def features_of(model: Clip | FrozenNetwork, paths: Sequence[Path]) -> Features:
    """Features of image files, which must open."""
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return torch.cat([model.images([read_image(path) for path in batch]) for batch in batches])


class _AsGiven(nn.Module):
    """Stands where `torchmetrics` has a network: the features are there already."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels

    def forward(self, features: Tensor) -> Tensor:
        """The features."""
        return features


def fid(real: Real, made: Made) -> float:
    """Fréchet distance of the two sets' normal distributions (arXiv 1706.08500)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsGiven(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(made.double(), real=False)
    return float(metric.compute())


def kid(real: Real, made: Made) -> float:
    """Squared maximum mean discrepancy with a cubic kernel (arXiv 1801.01401), the mean over subsets, times 1000."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(SUBSET_SIZE, len(real), len(made))
    metric = KernelInceptionDistance(feature=_AsGiven(real.shape[1]), subsets=SUBSETS, subset_size=size)
    metric.update(real.double(), real=True)
    metric.update(made.double(), real=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return 1000 * float(metric.compute()[0])


def cmmd(real: Real, made: Made) -> float:
    """Squared maximum mean discrepancy of unit CLIP embeddings with a Gaussian kernel (arXiv 2401.09603), times 1000.

    The estimate of least variance, as published: pairs of an image with itself count.
    """
    real, made = real.double(), made.double()
    pairs = ((real, real), (made, made), (real, made))
    within_real, within_made, between = (_mean_kernel(*pair) for pair in pairs)
    return CMMD_SCALE * (within_real + within_made - 2 * between)


def _mean_kernel(first: Real, second: Made, rows: int = 1024) -> float:
    """The Gaussian kernel's mean over all pairs, some rows at a time."""
    sums = [
        (-torch.cdist(first[start : start + rows], second).square() / (2 * CMMD_SIGMA**2)).exp().sum()
        for start in range(0, len(first), rows)
    ]
    return float(torch.stack(sums).sum()) / (len(first) * len(second))


def clip_scores(clip: Clip, paths: Sequence[Path], captions: Sequence[str]) -> Iterator[float]:
    """CLIP score of each image with its caption: 100 × their cosine, and 0 where that is negative."""
    cosines = (features_of(clip, paths) * clip.texts(captions)).sum(-1)
    yield from (100 * cosines.clamp(min=0)).tolist()


DISTANCES: dict[str, Callable[[Real, Made], float]] = {"fid": fid, "kid": kid, "cmmd": cmmd}
"""From features of real and of made images, by name."""
