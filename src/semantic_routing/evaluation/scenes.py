"""The benchmark of the embedded world: prompts by skill, judged by the detector.

The list is fixed: `VERSION` changes with any change to it. Half of each skill's prompts speak of combinations that
no caption of training speaks of (`scenes.held_out`).
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from typer import Option

from ..io.files import JsonObject, sha256
from ..scenes import HARD_SKILLS, SKILLS, Claim, SceneSample, Wording, detect, held_out_prompts, sample_scene, worded
from .benchmark import BENCHMARKS, OK, DetectorBenchmark, Json, Judged, Scores, value_key
from .image_files import NumberedFolders
from .result import OVERALL, Measure
from .sampler import Sampler

VERSION = 4
PROMPTS_PER_HALF = 20
_SEED, _TUNING_SEED = 31415, 14142
"""Of the streams that prompts are drawn from, and those of the list for choosing settings."""

ALL_SKILLS = (*SKILLS, *HARD_SKILLS)
GENEVAL_SKILLS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
BASIC_SKILLS = ("attribute", "scene", "spatial_relation", "action_relation", "part")
ADVANCED_SKILLS = ("counting", "comparison", "differentiation", "negation", "universality")
CHOSEN = "chosen skills"
"""The measure that stands for the overall one where not all skills are scored."""
GROUPS = {
    "geneval": GENEVAL_SKILLS,
    "basic": BASIC_SKILLS,
    "advanced": ADVANCED_SKILLS,
    "hard": HARD_SKILLS,
    OVERALL: SKILLS,
}
"""Groups of skills; a group's score is the plain mean of its skills' scores."""

Split = Literal["all", "held-out", "trained"]


@dataclass(frozen=True)
class ScenePrompt:
    """A prompt with its place in the list and what must be true of its images."""

    index: int
    skill: str
    split: str
    prompt: str
    claims: tuple[Claim, ...]

    def record(self) -> JsonObject:
        """As written beside the images."""
        claims = [claim.to_dict() for claim in self.claims]
        return {"tag": self.skill, "split": self.split, "prompt": self.prompt, "claims": claims}


@cache
def skill_samples(skill: str, seed: int = _SEED) -> tuple[SceneSample, ...]:
    """One skill's part of the list: `PROMPTS_PER_HALF` trained combinations, then as many held-out ones."""
    trained: dict[str, SceneSample] = {}
    for index in range(100 * PROMPTS_PER_HALF):
        sample = sample_scene(seed, index, "unseen", [skill])
        trained.setdefault(sample.caption, sample)
        if len(trained) == PROMPTS_PER_HALF:
            return (*trained.values(), *held_out_prompts(skill, PROMPTS_PER_HALF, seed))
    raise RuntimeError(f"{PROMPTS_PER_HALF} distinct prompts of {skill!r} were wanted, but only {len(trained)} found.")


@cache
def skill_prompts(skill: str, seed: int = _SEED) -> tuple[ScenePrompt, ...]:
    """`skill_samples` as prompts, with their places in the whole list, in which hard skills come last."""
    first = 2 * PROMPTS_PER_HALF * ALL_SKILLS.index(skill)
    prompts = []
    for place, sample in enumerate(skill_samples(skill, seed)):
        split = "trained" if place < PROMPTS_PER_HALF else "held-out"
        prompts.append(ScenePrompt(first + place, skill, split, sample.caption, sample.claims))
    return tuple(prompts)


def choose_prompts(
    skills: Sequence[str] = (), split: Split = "all", per_half: int = PROMPTS_PER_HALF, tuning: bool = False
) -> list[ScenePrompt]:
    """The prompts of some skills (none named: `SKILLS`) and of one half or both, perhaps only the first of each half.

    Raises:
        ValueError: an unknown skill.
    """
    for skill in skills:
        if skill not in ALL_SKILLS:
            raise ValueError(f"Skill is {skill!r}, but must be one of {', '.join(ALL_SKILLS)}.")
    return [
        prompt
        for skill in ALL_SKILLS
        if skill in (skills or SKILLS)
        for prompt in skill_prompts(skill, _TUNING_SEED if tuning else _SEED)
        if split in ("all", prompt.split)
        # Halves follow each other, each of the same length.
        and prompt.index % PROMPTS_PER_HALF < per_half
    ]


def prompts_hash(prompts: Iterable[ScenePrompt]) -> str:
    """SHA-256 of prompts with their claims."""
    return sha256(json.dumps([[prompt.index, prompt.record()] for prompt in prompts], sort_keys=True))


@BENCHMARKS.register("scenes")
class Scenes(DetectorBenchmark):
    """Colored shapes: 600 prompts of fifteen skills, half of them combinations that training never names.

    Eight hard skills can be named beside them, whose text is harder to understand: 320 prompts more.

    Args:
        skills: names joined by commas; None is all.
        held_out: only the prompts with combinations that training never names.
        prompts_per_half: of each skill, prompts with trained and with held-out combinations.
        tuning: another list, made in the same way.
        wording: what models read: sentences, or their bare claims, for those that were trained so.

    Raises:
        ValueError: an unknown skill.
    """

    sampler = Sampler(steps=30, guidance=2.0, batch_size=64)
    unit = "Share of images in which the detector finds every claim of the prompt."

    def __init__(
        self,
        skills: Annotated[
            str | None, Option(help="Skills, joined by commas, also hard ones; default: the fifteen plain ones.")
        ] = None,
        held_out: Annotated[
            bool, Option("--held-out/--all", help="Only prompts with combinations that training never names.")
        ] = False,
        prompts_per_half: Annotated[
            int,
            Option(
                min=1, max=PROMPTS_PER_HALF, help="Prompts of each half of a skill: trained and held-out combinations."
            ),
        ] = PROMPTS_PER_HALF,
        tuning: Annotated[
            bool, Option("--tuning", help="Use another list of prompts, for choosing settings such as guidance.")
        ] = False,
        wording: Annotated[
            Wording, Option(help="Wording of prompts: sentences, or bare claims for models that were trained on them.")
        ] = "sentence",
    ) -> None:
        named = [skill.strip() for skill in skills.split(",")] if skills else []
        self.chosen = choose_prompts(named, "held-out" if held_out else "all", prompts_per_half, tuning)
        self.by_index = {prompt.index: prompt for prompt in self.chosen}
        records = {index: prompt.record() for index, prompt in self.by_index.items()}
        prompts = {index: worded(wording, prompt.prompt, prompt.claims) for index, prompt in self.by_index.items()}
        super().__init__(prompts, NumberedFolders(records))

    def known_prompts(self) -> Collection[int]:
        """The whole list's indices."""
        return range(2 * PROMPTS_PER_HALF * len(ALL_SKILLS))

    def judge(self, image: Image.Image, prompt: int) -> Json:
        """Whether each claim holds."""
        scene = detect(np.asarray(image))
        claims = {str(claim): claim.holds(scene) for claim in self.by_index[prompt].claims}
        return {"correct": all(claims.values()), "claims": claims}

    def scores(self, found: Json) -> Scores:
        """1 if every claim holds, else 0."""
        return {"": float(found["correct"])}

    def settings(self, judged: Sequence[Judged]) -> Json:
        """Version and hash of the list."""
        return {"version": VERSION, "prompts_sha256": prompts_hash(self.chosen)}

    def line(self, judged: Judged) -> Json:
        """With the prompt's skill and half; `correct` is null for an image without a verdict."""
        image, outcome = judged
        prompt = self.by_index[image.prompt]
        about = {"image": image.name, "tag": prompt.skill, "split": prompt.split, "prompt": prompt.prompt}
        problem = {} if outcome.status == OK else {"correct": None, "error": outcome.error or outcome.status}
        return {**about, **outcome.found, **problem}

    def measures(self) -> list[Measure]:
        """A row a skill, and one a group of skills that are all chosen; a column for all prompts and one a half."""
        splits = list(dict.fromkeys(prompt.split for prompt in self.chosen))
        parts = ["all", *splits] if len(splits) > 1 else splits
        return [measure for part in parts for measure in self._measures(part)]

    def _measures(self, part: str) -> list[Measure]:
        by_skill: dict[str, list[str]] = {}
        for prompt in self.chosen:
            if part in ("all", prompt.split):
                by_skill.setdefault(prompt.skill, []).append(value_key(prompt.index))
        found = [Measure(skill, (tuple(keys),), part) for skill, keys in by_skill.items()]
        for group, skills in GROUPS.items():
            if set(skills) <= set(by_skill):
                found.append(Measure(group, tuple(tuple(by_skill[skill]) for skill in skills), part))
        if set(by_skill) != set(SKILLS) and len(by_skill) > 1:
            found.append(Measure(CHOSEN, tuple(map(tuple, by_skill.values())), part))
        return found
