"""How well a pipeline predicts pictures from their captions, without sampling: the validation loss, and information.

The loss is that of training at its fixed noise levels, see `training.validation_loss`; information is that of
`information`, in nats. Both are about the pictures that are given, and not about any that the pipeline makes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.progress import track

from ..io.files import JsonObject, sha256
from ..io.jsonl import Ledger, work_key
from ..io.tensors import weights_digest
from ..pipelines.loading import load_pipeline
from ..pipelines.saved import PipelineFiles
from ..training.validation_loss import SIGMAS
from .captioned import CaptionedPicture, folder_pictures
from .information import (
    LOG_SNR,
    VERSION,
    Denoiser,
    Subject,
    integrate,
    nats_per_log_snr,
    pipeline_denoiser,
    squared_errors,
)
from .information_run import as_subjects
from .result import Tally

LOSS, INFORMATION = "validation loss", "information"
BATCH, SEED = 32, 0


class Predictions:
    """Predictions of the pictures of a file of records, each measured once.

    Args:
        files: of the pipeline.
        data: see `folder_pictures`.
        count: of pictures, the file's first ones.
        ledger: file of what was measured, for a second run.
        unconditional: measure information, too, which needs a model that was trained with caption dropout.
        dtype: of the weights.
        device: None is cuda where there is one.

    Raises:
        ValueError: no picture can be read.
    """

    def __init__(
        self,
        files: PipelineFiles,
        data: Path,
        count: int,
        ledger: Path,
        unconditional: bool,
        dtype: str,
        device: str | None,
    ) -> None:
        self.pipeline = load_pipeline(str(files.folder), dtype, device)
        self.unconditional = unconditional
        self.ledger = Ledger(ledger)
        self.weights = weights_digest(self.pipeline.transformer)
        self.tally = Tally(expected=0)
        """Takes note of pictures that cannot be read."""
        size = files.transformer["sample_size"] * self.pipeline.codec.downsampling
        self.pictures = folder_pictures(data, count, size, self.tally)[:count]

    def measure(self) -> Iterator[tuple[int, JsonObject]]:
        """The number of each record whose picture can be read, with its `LOSS` and perhaps its `INFORMATION`."""
        keys = {picture.name: self._key(picture) for picture in self.pictures}
        pending = [picture for picture in self.pictures if self.ledger.get(keys[picture.name]) is None]
        batches = [pending[start : start + BATCH] for start in range(0, len(pending), BATCH)]
        for batch in track(batches, "predicting", console=Console(stderr=True)):
            for picture, found in zip(batch, self._measure(batch), strict=True):
                self.ledger.add(keys[picture.name], found)
        for picture in self.pictures:
            known = self.ledger.get(keys[picture.name])
            assert known is not None, "measured above"
            found = {name: known[name] for name in (LOSS, INFORMATION) if name in known}
            yield int(picture.name.removeprefix("record ")), found

    def _key(self, picture: CaptionedPicture) -> str:
        pixels = sha256(picture.pixels.numpy().tobytes())
        way = {"weights": self.weights, "information": self.unconditional, "version": VERSION, "seed": SEED}
        return work_key(picture=pixels, name=picture.name, caption=picture.caption, **way)

    def _measure(self, pictures: Sequence[CaptionedPicture]) -> list[JsonObject]:
        denoiser = pipeline_denoiser(self.pipeline)
        subjects = as_subjects(self.pipeline, pictures, self.unconditional, SEED)
        losses = velocity_losses(denoiser, [subject._replace(captions=subject.captions[:1]) for subject in subjects])
        found: list[JsonObject] = [{LOSS: float(loss)} for loss in losses]
        if self.unconditional:
            nats = integrate(nats_per_log_snr(squared_errors(denoiser, subjects, SEED)), LOG_SNR)
            for entry, cost, without in zip(found, nats[::2], nats[1::2], strict=True):
                entry[INFORMATION] = float(without - cost)
        return found


def velocity_losses(denoiser: Denoiser, subjects: Sequence[Subject]) -> Float[np.ndarray, " subjects"]:
    """The mean squared error of the velocity over training's fixed noise levels, of subjects with one caption each."""
    sigmas = np.array(SIGMAS)
    errors = squared_errors(denoiser, subjects, SEED, list(2 * np.log((1 - sigmas) / sigmas)))
    # v = (x_σ − x) / σ, so that its error is that of x by σ.
    return (errors / sigmas**2).mean(1) / subjects[0].latent.numel()
