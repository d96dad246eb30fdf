"""The embedded world: an endless stream of captioned pictures of colored shapes, and a detector that reads them back.

sample = sample_scene(seed=0, index=7)
picture = render(sample.scene, 64)
assert all(judge(picture, sample.claims))
"""

from .claims import Background, Claim, Compare, Count, Description, Every, Related, claim_from_dict
from .detector import detect, judge
from .grammar import SKILLS
from .render import render
from .stream import SceneSample, held_out_prompts, sample_scene
from .world import BACKGROUNDS, COLORS, SHAPES, Scene, SceneObject

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "SHAPES",
    "SKILLS",
    "Background",
    "Claim",
    "Compare",
    "Count",
    "Description",
    "Every",
    "Related",
    "Scene",
    "SceneObject",
    "SceneSample",
    "claim_from_dict",
    "detect",
    "held_out_prompts",
    "judge",
    "render",
    "sample_scene",
]
