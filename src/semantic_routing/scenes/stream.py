"""The seeded stream of scenes with captions, and the prompts kept for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .claims import Claim
from .grammar import PLANNERS, Plan, complete
from .held_out import HELD_OUT, NEVER_SHOWN, shown, stated
from .layout import place
from .world import Scene

SKILLS: tuple[str, ...] = tuple(PLANNERS)
"""What captions exercise: GenEval's six skills by their names there, then those of GenAI-Bench."""

SPLITS = ("train", "held-out")

_LAYOUTS = 12
_PLANS = 5000


@dataclass(frozen=True)
class SceneSample:
    """A scene, a caption that is true of it, the caption's claims, and the skill that it exercises."""

    scene: Scene
    caption: str
    claims: tuple[Claim, ...]
    skill: str


def _lay_out(rng: Random, plan: Plan, split: str, spacing: int) -> Scene | None:
    """A scene that follows `plan` and its split, or None where none was found in a few attempts."""
    for attempt in range(_LAYOUTS):
        # What finds no room on few lines may lie on all of them.
        things = place(rng, complete(rng, plan), plan.links, spacing if attempt < _LAYOUTS // 2 else 1)
        if things is None:
            continue
        scene = Scene(plan.background, things)
        if split == "held-out" or NEVER_SHOWN.isdisjoint(shown(scene)):
            return scene
    return None


def sample_scene(
    seed: int, index: int, split: str = "train", skills: Sequence[str] = SKILLS, spacing: int = 1
) -> SceneSample:
    """Sample number `index` of the stream `seed`: the same arguments give the same sample.

    Args:
        seed: which stream.
        index: which sample of the stream; any order, any subset.
        split: a "train" caption never speaks of a held-out combination (nor does its picture show one of
            `NEVER_SHOWN`), a "held-out" one always does.
        skills: of `SKILLS`; one is drawn by their shares of the training mixture, one named twice twice as often.
        spacing: centers lie on every so many lines of the world's grid of 16 a side, as far as there is room on
            these; fewer lines are easier to learn.
    """
    if split not in SPLITS:
        raise ValueError(f"Split is {split!r}, but must be one of {', '.join(SPLITS)}.")
    for skill in skills:
        if skill not in PLANNERS:
            raise ValueError(f"Skill is {skill!r}, but must be one of {', '.join(SKILLS)}.")
    rng = Random(f"scenes {seed} {index} {split} {' '.join(skills)}")
    skill = rng.choices(skills, [PLANNERS[skill][1] for skill in skills])[0]
    planner, stratum = PLANNERS[skill][0], rng.random()
    for _ in range(_PLANS):
        plan = planner(rng, stratum)
        if HELD_OUT.isdisjoint(stated(plan.claims)) != (split == "train"):
            continue
        scene = _lay_out(rng, plan, split, spacing)
        if scene is None:
            continue
        if split == "train" or not HELD_OUT.isdisjoint(stated(plan.claims) & shown(scene)):
            return SceneSample(scene, plan.caption, plan.claims, skill)
    raise RuntimeError(
        f"No {split} scene for {skill!r} in {_PLANS} plans: the table of held-out combinations is too wide."
    )


def held_out_prompts(skill: str, count: int, seed: int = 0) -> list[SceneSample]:
    """`count` held-out samples of `skill` with captions that all differ."""
    found: dict[str, SceneSample] = {}
    for index in range(100 * count):
        if len(found) == count:
            break
        sample = sample_scene(seed, index, "held-out", [skill])
        found.setdefault(sample.caption, sample)
    if len(found) < count:
        raise ValueError(
            f"{count} distinct held-out prompts of {skill!r} were wanted, but only {len(found)} were found."
        )
    return list(found.values())
