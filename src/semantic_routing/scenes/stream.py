"""The seeded stream of scenes with captions, and the prompts kept for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .claims import Claim
from .grammar import PLANNERS, SKILLS, Draws, Plan, complete
from .held_out import HELD_OUT, NEVER_SHOWN, is_held_out_layout, is_reserved_caption, shown, shown_apart, stated
from .layout import place
from .world import BACKGROUNDS, Scene

SPLITS = ("train", "unseen", "held-out")

FEW = 2
"""Up to so many objects lie on lines of `spacing`, more on those of `crowd_spacing`."""

_LAYOUTS = 12
_PLANS = 5000


@dataclass(frozen=True)
class SceneSample:
    """A scene, a caption that is true of it, the caption's claims, and the skill that it exercises."""

    scene: Scene
    caption: str
    claims: tuple[Claim, ...]
    skill: str


@dataclass(frozen=True)
class Spacing:
    """On every how many lines of the world's grid of 16 a side centers lie; 0 is anywhere.

    Fewer lines are easier to learn, but have few layouts: on every fourth line there is one for five objects, and half
    of the pictures of four have their objects in the four corners.
    """

    few: int = 1
    """For pictures of one or two objects."""
    crowd: int = 1
    """For pictures of three or more."""

    def __post_init__(self) -> None:
        for value in (self.few, self.crowd):
            if value not in (0, 1, 2, 4):
                raise ValueError(f"Spacing is {value}, but must be 0, 1, 2 or 4.")

    def of(self, number: int) -> int:
        """The spacing for a picture of `number` objects."""
        return self.few if number <= FEW else self.crowd


def lay_out(unsaid: Random, plan: Plan, split: str, spacing: Spacing) -> Scene | None:
    """A scene that follows `plan` and its split, or None where a few attempts found none."""
    background = plan.background or unsaid.choice(tuple(BACKGROUNDS))
    for attempt in range(_LAYOUTS):
        things = complete(unsaid, plan)
        if split != "held-out" and not NEVER_SHOWN.isdisjoint(shown_apart(things)):
            continue
        # Objects that find no room on few lines may find some on all of them.
        lines = spacing.of(len(things)) if attempt < _LAYOUTS // 2 else min(1, spacing.of(len(things)))
        placed = place(unsaid, things, plan.links, lines)
        if placed is None:
            continue
        scene = Scene(background, placed)
        if not all(claim.holds(scene) for claim in plan.claims):  # links do not say which is the second from the left
            continue
        if split == "held-out" or (NEVER_SHOWN.isdisjoint(shown(scene)) and not is_held_out_layout(scene)):
            return scene
    return None


def speaks_for(plan: Plan, split: str) -> bool:
    """Whether the plan's caption belongs to `split`."""
    if split == "held-out":
        return not HELD_OUT.isdisjoint(stated(plan.claims))
    return is_reserved_caption(plan.caption) == (split == "unseen") and HELD_OUT.isdisjoint(stated(plan.claims))


def check_skills(skills: Sequence[str]) -> None:
    """Raises ValueError for a skill that there is not."""
    for skill in skills:
        if skill not in PLANNERS:
            raise ValueError(f"Skill is {skill!r}, but must be one of {', '.join(PLANNERS)}.")


def sample_scene(
    seed: int,
    index: int,
    split: str = "train",
    skills: Sequence[str] = SKILLS,
    spacing: int = 1,
    crowd_spacing: int = 1,
) -> SceneSample:
    """Sample number `index` of the stream `seed`: the same arguments give the same sample.

    Args:
        seed: which stream.
        index: which sample of the stream; any order, any subset.
        split: "train" obeys all rules of `held_out`. "unseen" does too, but its captions are those that training
            never has word for word. A "held-out" caption speaks of a held-out combination.
        skills: of `SKILLS` or `HARD_SKILLS`. Each is drawn by its share of the training mixture, and one that is named
            twice is drawn twice as often.
        spacing: centers of one or two objects lie on every so many lines of the world's grid of 16 a side, as far as
            there is room; 0 is anywhere. Fewer lines are easier to learn.
        crowd_spacing: the same for three and more objects. With 4 almost all pictures of five have the same layout.

    Raises:
        ValueError: an unknown split, skill or spacing.
    """
    if split not in SPLITS:
        raise ValueError(f"Split is {split!r}, but must be one of {', '.join(SPLITS)}.")
    check_skills(skills)
    lines = Spacing(spacing, crowd_spacing)
    key = f"scenes {seed} {index} {split} {' '.join(skills)}"
    rng = Random(key)
    skill = rng.choices(skills, [PLANNERS[skill][1] for skill in skills])[0]
    planner, stratum = PLANNERS[skill][0], rng.random()
    for attempt in range(_PLANS):
        draws = Draws(f"{key} {attempt}", stratum)
        plan = planner(draws)
        if not speaks_for(plan, split):
            continue
        scene = lay_out(draws.unsaid, plan, split, lines)
        if scene is None:
            continue
        if split != "held-out" or not HELD_OUT.isdisjoint(stated(plan.claims) & shown(scene)):
            return SceneSample(scene, plan.caption, plan.claims, skill)
    raise RuntimeError(f"No {split} scene for {skill!r} in {_PLANS} plans: too much is held out.")


def held_out_prompts(skill: str, count: int, seed: int = 0) -> list[SceneSample]:
    """`count` held-out samples of `skill` with captions that all differ."""
    found: dict[str, SceneSample] = {}
    for index in range(20 * count):
        if len(found) == count:
            break
        sample = sample_scene(seed, index, "held-out", [skill])
        found.setdefault(sample.caption, sample)
    if len(found) < count:
        raise ValueError(
            f"{count} distinct held-out prompts of {skill!r} were wanted, but only {len(found)} were found."
        )
    return list(found.values())
