"""The embedded world: an endless stream of captioned pictures of colored shapes, and a detector that reads them back.

sample = sample_scene(seed=0, index=7)
picture = render(sample.scene, 64)
assert all(judge(picture, sample.claims))
"""

from .claims import Background, Claim, Compare, Count, Description, Every, Ordinal, Related, claim_from_dict
from .detector import detect, judge
from .edits import EDIT_KINDS, Edit, edits
from .grammar import SKILLS
from .grammar_hard import HARD_SKILLS
from .oracle import ORACLE_FIELDS, Wording, claims_wording, oracle_tokens, worded
from .pool import CaptionPool
from .render import render
from .stream import SceneSample, Spacing, held_out_prompts, sample_scene
from .world import BACKGROUNDS, COLORS, SHAPES, Scene, SceneObject

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "EDIT_KINDS",
    "HARD_SKILLS",
    "ORACLE_FIELDS",
    "SHAPES",
    "SKILLS",
    "Background",
    "CaptionPool",
    "Claim",
    "Compare",
    "Count",
    "Description",
    "Edit",
    "Every",
    "Ordinal",
    "Related",
    "Scene",
    "SceneObject",
    "SceneSample",
    "Spacing",
    "Wording",
    "claim_from_dict",
    "claims_wording",
    "detect",
    "edits",
    "held_out_prompts",
    "judge",
    "oracle_tokens",
    "render",
    "sample_scene",
    "worded",
]
