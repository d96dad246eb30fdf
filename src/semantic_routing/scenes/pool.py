"""A fixed number of captions, each with endless pictures, so that a text encoder reads each caption only once."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from .grammar import PLANNERS, SKILLS, Draws, Plan
from .oracle import Wording, worded
from .stream import SceneSample, Spacing, check_skills, lay_out, speaks_for

_PATIENCE = 1000
"""The search ends after so many draws, and one more for each caption that is wanted, without a new caption."""
_TRIES = 1000


class _Entry(NamedTuple):
    """What makes a plan again."""

    skill: str
    seed: str
    stratum: float

    def plan(self, unsaid: str | None = None) -> tuple[Plan, Random]:
        """The plan with what it leaves open drawn from `unsaid`, and the generator for the rest of the picture."""
        draws = Draws(self.seed, self.stratum, unsaid)
        return PLANNERS[self.skill][0](draws), draws.unsaid


class CaptionPool:
    """`count` distinct captions of the training split, and the endless pictures of them.

    A sample draws a skill by its share of the training mixture and then one of the pool's captions of that skill.
    The captions depend on `count` and `skills` alone, so that runs with other seeds share a text encoder's features.

    Args:
        count: how many captions.
        seed: of the samples.
        skills: as for `sample_scene`.
        spacing: where centers lie.

    Raises:
        ValueError: the skills do not make so many captions.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        skills: Sequence[str] = SKILLS,
        spacing: Spacing = Spacing(),  # noqa: B008
    ) -> None:
        check_skills(skills)
        self.seed, self.spacing = seed, spacing
        entries: dict[str, _Entry] = {}
        number = last_found = 0
        while len(entries) < count and number - last_found < _PATIENCE + count:
            key = f"captions {number} {' '.join(skills)}"
            rng = Random(key)
            entry = _Entry(rng.choices(skills, [PLANNERS[skill][1] for skill in skills])[0], key, rng.random())
            plan, _ = entry.plan()
            number += 1
            if plan.caption not in entries and speaks_for(plan, "train"):
                entries[plan.caption], last_found = entry, number
        if len(entries) < count:
            raise ValueError(
                f"{count} captions were wanted, but {number} draws of {', '.join(dict.fromkeys(skills))} made only "
                f"{len(entries)}: ask for fewer, or name more skills."
            )
        self.captions = tuple(entries)
        """All captions, in the order in which they were found."""
        self._entries = list(entries.values())
        self._by_skill: dict[str, list[_Entry]] = {}
        for entry in self._entries:
            self._by_skill.setdefault(entry.skill, []).append(entry)
        self._shares = [PLANNERS[skill][1] * skills.count(skill) for skill in self._by_skill]

    def worded(self, wording: Wording) -> list[str]:
        """All distinct captions in a wording; several sentences can have the same claims."""
        return list(dict.fromkeys(worded(wording, plan.caption, plan.claims) for plan in self.plans()))

    def plans(self) -> Iterator[Plan]:
        """The plan of each caption, in their order."""
        for entry in self._entries:
            yield entry.plan()[0]

    def sample(self, index: int) -> SceneSample:
        """Sample number `index`: the same pool and index give the same sample."""
        key = f"pool {self.seed} {index}"
        rng = Random(key)
        for attempt in range(_TRIES):
            entry = rng.choice(self._by_skill[rng.choices(list(self._by_skill), self._shares)[0]])
            plan, unsaid = entry.plan(f"{key} {attempt}")
            scene = lay_out(unsaid, plan, "train", self.spacing)
            if scene is not None:
                return SceneSample(scene, plan.caption, plan.claims, entry.skill)
        raise RuntimeError(f"No picture was found for any of {_TRIES} captions of the pool.")
