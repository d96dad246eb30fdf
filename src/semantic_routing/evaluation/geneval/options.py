"""The official scorer's options. Nothing here imports torch."""

from dataclasses import dataclass, field

from .judging import JudgingOptions

DEFAULT_DETECTOR = "facebook/mask2former-swin-small-coco-instance"
DEFAULT_CLIP = "openai/clip-vit-large-patch14"
BACKGROUND = "#999"


@dataclass(frozen=True)
class ScorerOptions:
    """Names of the models, thresholds, and how objects are cut out for CLIP."""

    detector: str = DEFAULT_DETECTOR
    clip_model: str = DEFAULT_CLIP
    judging: JudgingOptions = field(default_factory=JudgingOptions)
    background: str = BACKGROUND
    crop: bool = True
