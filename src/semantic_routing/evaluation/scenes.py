"""The benchmark of the embedded world: prompts by skill, judged by the detector.

The list is fixed: `VERSION` changes with any change to it. Half of each skill's prompts speak of combinations that
no caption of training speaks of (`scenes.held_out`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..io.files import sha256
from ..io.images import UnreadableImageError, read_image
from ..io.jsonl import write_lines
from ..scenes import SKILLS, Claim, detect, held_out_prompts, sample_scene
from .layout import find_samples, make_jobs, sample_name, write_records
from .report import OVERALL, Measure, Result, Tally, summarize
from .sampling import Sampler, read_sampling, sample_images

VERSION = 4
PROMPTS_PER_HALF = 20
_SEED = 31415
"""Of the streams that prompts are drawn from."""

GENEVAL_SKILLS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
BASIC_SKILLS = ("attribute", "scene", "spatial_relation", "action_relation", "part")
ADVANCED_SKILLS = ("counting", "comparison", "differentiation", "negation", "universality")
CHOSEN = "chosen skills"
"""The measure that stands for the overall one where not all skills are scored."""
GROUPS = {"geneval": GENEVAL_SKILLS, "basic": BASIC_SKILLS, "advanced": ADVANCED_SKILLS, OVERALL: SKILLS}
"""Groups of skills; a group's score is the plain mean of its skills' scores."""

UNIT = "Share of images in which the detector finds every claim of the prompt."

Split = Literal["all", "held-out", "trained"]


@dataclass(frozen=True)
class ScenePrompt:
    """A prompt with its place in the list and what must be true of its images."""

    index: int
    skill: str
    split: str
    prompt: str
    claims: tuple[Claim, ...]

    def record(self) -> dict[str, Any]:
        """As written beside the images."""
        claims = [claim.to_dict() for claim in self.claims]
        return {"tag": self.skill, "split": self.split, "prompt": self.prompt, "claims": claims}


@cache
def scene_prompts() -> tuple[ScenePrompt, ...]:
    """The whole list, by skill, trained combinations before held-out ones."""
    prompts: list[ScenePrompt] = []
    for skill in SKILLS:
        trained: dict[str, tuple[Claim, ...]] = {}
        for index in range(100 * PROMPTS_PER_HALF):
            sample = sample_scene(_SEED, index, "unseen", [skill])
            trained.setdefault(sample.caption, sample.claims)
            if len(trained) == PROMPTS_PER_HALF:
                break
        held_out = {sample.caption: sample.claims for sample in held_out_prompts(skill, PROMPTS_PER_HALF, _SEED)}
        for split, chosen in (("trained", trained), ("held-out", held_out)):
            prompts += [
                ScenePrompt(len(prompts) + number, skill, split, caption, claims)
                for number, (caption, claims) in enumerate(chosen.items())
            ]
    return tuple(prompts)


def choose_prompts(
    skills: Sequence[str] = (), split: Split = "all", per_half: int = PROMPTS_PER_HALF
) -> list[ScenePrompt]:
    """The prompts of some skills (none named: all) and of one half or both, perhaps only the first of each half.

    Raises:
        ValueError: an unknown skill.
    """
    for skill in skills:
        if skill not in SKILLS:
            raise ValueError(f"Skill is {skill!r}, but must be one of {', '.join(SKILLS)}.")
    return [
        prompt
        for prompt in scene_prompts()
        if (not skills or prompt.skill in skills)
        and split in ("all", prompt.split)
        # Halves follow each other, each of the same length.
        and prompt.index % PROMPTS_PER_HALF < per_half
    ]


def prompts_hash(prompts: Iterable[ScenePrompt]) -> str:
    """SHA-256 of prompts with their claims."""
    return sha256(json.dumps([[prompt.index, prompt.record()] for prompt in prompts], sort_keys=True))


def sample(prompts: Sequence[ScenePrompt], sampler: Sampler, out: Path) -> None:
    """Makes the images that are not there yet under `out/images`."""
    images = out / "images"
    jobs = make_jobs(images, {prompt.index: prompt.prompt for prompt in prompts}, sampler.images_per_prompt)
    sample_images(sampler, jobs, out)
    write_records(images, {prompt.index: prompt.record() for prompt in prompts})


def score(
    prompts: Sequence[ScenePrompt],
    out: Path,
    images: Path | None = None,
    images_per_prompt: int | None = None,
    partial: bool = False,
) -> Result:
    """Judges the images and writes `results.jsonl` and the result's files in `out`.

    Args:
        prompts: those to score.
        out: folder for the results, with the record of sampling.
        images: where the images are; None is `out/images`.
        images_per_prompt: how many there should be; None is as many as were sampled.
        partial: give overall numbers even if images are missing.
    """
    sampling = read_sampling(out)
    count = images_per_prompt or int(sampling.get("images_per_prompt", 4))
    samples = find_samples(images or out / "images", [prompt.index for prompt in scene_prompts()], count)
    tally = Tally(expected=len(prompts) * count, ignored=samples.others)
    lines = []
    for prompt in prompts:
        for number in range(count):
            line = _judge(prompt, number, samples.paths.get((prompt.index, number)), tally)
            lines.append(line)
    write_lines(out / "results.jsonl", lines)
    settings = {"version": VERSION, "prompts": len(prompts), "prompts_sha256": prompts_hash(prompts)}
    result = summarize("scenes", tally, measures(prompts), {**settings, "sampling": sampling}, UNIT, partial)
    result.write(out)
    return result


def _judge(prompt: ScenePrompt, number: int, path: Path | None, tally: Tally) -> dict[str, Any]:
    name = sample_name(prompt.index, number)
    line = {"image": name, "tag": prompt.skill, "split": prompt.split, "prompt": prompt.prompt, "correct": None}
    if path is None:
        tally.problem("missing images", name)
        return line
    try:
        scene = detect(np.asarray(read_image(path)))
    except UnreadableImageError as error:
        tally.problem("unreadable images", name)
        return {**line, "error": str(error)}
    claims = {str(claim): claim.holds(scene) for claim in prompt.claims}
    correct = all(claims.values())
    tally.add({str(prompt.index): float(correct)})
    return {**line, "correct": correct, "claims": claims}


def measures(prompts: Sequence[ScenePrompt]) -> list[Measure]:
    """A row a skill, and one a group of skills that is there as a whole; a column for all prompts and for each half."""
    splits = list(dict.fromkeys(prompt.split for prompt in prompts))
    parts = ["all", *splits] if len(splits) > 1 else splits
    found = []
    for part in parts:
        by_skill: dict[str, list[str]] = {}
        for prompt in prompts:
            if part in ("all", prompt.split):
                by_skill.setdefault(prompt.skill, []).append(str(prompt.index))
        found += [Measure(skill, (tuple(keys),), part) for skill, keys in by_skill.items()]
        for group, skills in GROUPS.items():
            if set(skills) <= set(by_skill):
                found.append(Measure(group, tuple(tuple(by_skill[skill]) for skill in skills), part))
        if set(by_skill) != set(SKILLS) and len(by_skill) > 1:
            found.append(Measure(CHOSEN, tuple(map(tuple, by_skill.values())), part))
    return found
