"""How often the 95 % intervals of `reporting.intervals` hold the truth, by simulation.

    python -m benchmarks.coverage

Prompts differ in difficulty, runs differ in skill, and each image is right or wrong. The true difference of the two
arms is 0. The true score of several runs is the mean over all runs that there could be, for these prompts; that of one
run is the mean over all prompts that there could be, for this run. A single run's interval of the difference holds 0
only where runs do not differ, which the table shows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from semantic_routing.reporting.intervals import difference, score
from semantic_routing.reporting.table import Table


class World(NamedTuple):
    """What is simulated.

    Args:
        runs: of each of the two arms, which are truly equal.
        spread: standard deviation of the runs' skill, in logits.
        difficulty: mean over prompts, in logits; 4 is right in about 3 of 100 images.
        groups: skills.
        prompts: of each skill.
        images: of each prompt.
    """

    runs: int
    spread: float
    difficulty: float = 0.0
    groups: int = 5
    prompts: int = 40
    images: int = 1


class Coverage(NamedTuple):
    """Shares of trials in which the interval holds the truth."""

    score: float
    difference: float


def covered(world: World, trials: int, seed: int = 0) -> Coverage:
    """Simulates an arm's score and the difference of two equal arms, `trials` times."""
    random = np.random.default_rng(seed)
    hits = np.zeros(2)
    for _ in range(trials):
        easiness = random.normal(-world.difficulty, 1, (world.groups, world.prompts))
        skills = random.normal(0, world.spread, (2, world.runs))
        one, other = ([_judged(world, group, arm, random) for group in easiness] for arm in skills)
        if world.runs > 1:
            possible = world.spread * ndtri((np.arange(100) + 0.5) / 100)
            truth = _probability(easiness[..., None] + possible).mean()
        else:
            truth = _probability(random.normal(-world.difficulty, 1, 20_000) + skills[0, 0]).mean()
        found = score(one), difference([two - first for first, two in zip(one, other, strict=True)])
        hits += [
            entry is not None and entry.low <= true <= entry.high for entry, true in zip(found, (truth, 0), strict=True)
        ]
    return Coverage(*(hits / trials).tolist())


def _judged(
    world: World, easiness: NDArray[np.float64], skills: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """Runs x prompts: the share of right images."""
    return random.binomial(world.images, _probability(easiness + skills[:, None])) / world.images


def _probability(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logit))


def main(trials: int = 1000) -> None:
    """Prints the coverage for few runs, for several spreads, and near 0."""
    rows = []
    for runs in (1, 3, 5):
        for spread in (0.0, 0.3, 0.6):
            for difficulty in (0.0, 3.0, 6.0):
                world = World(runs, spread, difficulty)
                found = covered(world, trials)
                rows.append([str(runs), str(spread), str(difficulty), f"{found.score:.3f}", f"{found.difference:.3f}"])
    Table(["runs", "spread", "difficulty", "score", "difference of equal arms"], rows).print()


if __name__ == "__main__":
    main()
