"""What a picture is made with, and the limits of what one user may ask for."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

from PIL import Image

from ..fusion import LayerGains, read_gains
from ..io.files import JsonObject
from ..io.messages import brief
from ..io.resources import DEMO
from ..pipelines.saved import PipelineFiles

MOST_CHARACTERS = 1000
MOST_IMAGES = 16
MOST_STEPS = 200
MOST_PIXELS = 1024
MOST_GUIDANCE = 20.0
MOST_FUSION_SCALE = 4.0
MOST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Settings:
    """Everything that pictures of one prompt depend on.

    Args:
        prompt: up to `MOST_CHARACTERS` long.
        pipeline: folder, hub name or `demo`.
        negative_prompt: what guidance moves away from.
        seed: of the first picture; picture i starts from the noise of `seed + i`.
        images: pictures.
        steps: of the scheduler.
        guidance: scale of classifier-free guidance.
        size: pixels a side; None is the pipeline's own number.
        layer_gains: factors of language-model layers as on the command line, such as `3=0,5=2`.
        fusion_scale: how far fusion weights lie from the plain mean of layers, see `fusion.check_scale`.

    Raises:
        ValueError: there is no prompt, or a value is beyond its limits.
    """

    prompt: str
    pipeline: str = DEMO
    negative_prompt: str = ""
    seed: int = 0
    images: int = 4
    steps: int = 50
    guidance: float = 2.0
    size: int | None = None
    layer_gains: str = ""
    fusion_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("There is no prompt: type what the picture should show.")
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative_prompt)):
            if len(text) > MOST_CHARACTERS:
                raise ValueError(f"The {name} has {len(text)} characters, but at most {MOST_CHARACTERS} are allowed.")
        for name, number, least, most in (
            ("Seed", self.seed, 0, MOST_SEED),
            ("Images", self.images, 1, MOST_IMAGES),
            ("Steps", self.steps, 1, MOST_STEPS),
            ("Size", 1 if self.size is None else self.size, 1, MOST_PIXELS),
        ):
            if not isinstance(number, int) or not least <= number <= most:
                raise ValueError(f"{name} must be a whole number from {least} to {most}, not {brief(number)}.")
        for name, value, largest in (
            ("Guidance", self.guidance, MOST_GUIDANCE),
            ("Fusion scale", self.fusion_scale, MOST_FUSION_SCALE),
        ):
            if not isinstance(value, int | float) or not 0 <= value <= largest:
                raise ValueError(f"{name} must be from 0 to {largest:g}, not {brief(value)}.")
        self.gains  # noqa: B018 (raises for gains that cannot be read)

    @property
    def gains(self) -> LayerGains | None:
        """The factors of layers; None where all are 1."""
        return read_gains(self.layer_gains) if self.layer_gains.strip() else None

    def record(self, number: int, picture: Image.Image) -> JsonObject:
        """What a picture was made with, the one of that number, to be written into its file."""
        return {**asdict(self), "seed": self.seed + number, "images": 1, "size": picture.width}


class Defaults(NamedTuple):
    """A pipeline's own steps and guidance."""

    steps: int
    guidance: float

    @classmethod
    def of(cls, files: PipelineFiles) -> "Defaults":
        """Within the limits of the page."""
        return cls(min(files.steps, MOST_STEPS), min(files.guidance, MOST_GUIDANCE))
