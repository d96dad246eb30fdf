"""Pictures from which a small model learns that the order of words matters, before it meets all ways to say so.

Two large objects and a caption such as "a red circle left of a blue star", in a folder that `sroute train` reads:

    python examples/first_relations.py runs/first-relations
    sroute train scenes/demo-order
"""

import json
from dataclasses import replace
from pathlib import Path

import typer
from PIL import Image
from tqdm import trange

from semantic_routing.scenes import COLORS, SHAPES, Count, Description, Related, render, sample_scene
from semantic_routing.scenes.grammar import PLANNERS, Draws, Plan
from semantic_routing.scenes.words import thing

SKILL = "left_or_right"


def left_or_right(rng: Draws) -> Plan:
    """A red circle left of a blue star."""
    relation = "left" if rng.stratum < 0.5 else "right"
    shapes, colors = rng.sample(SHAPES, 2), rng.sample(tuple(COLORS), 2)
    a, b = (Description(*drawn) for drawn in zip(shapes, colors, strict=True))
    large = (replace(a, size="large"), replace(b, size="large"))
    caption = f"{thing(rng, a)} {relation} of {thing(rng, b)}"
    claims = (Count(a, 1), Count(b, 1), Related(relation, a, b))
    return Plan(large, caption, claims, links=((relation, 0, 1),))


def main(out: Path, count: int = 50_000, image_size: int = 32) -> None:
    """Writes COUNT pictures and their captions to the folder OUT; held-out combinations are none of them."""
    PLANNERS[SKILL] = (left_or_right, 1)
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    with (out / "captions.jsonl").open("w", encoding="utf-8") as lines:
        for index in trange(count):
            sample = sample_scene(0, index, skills=[SKILL], spacing=4)
            name = f"images/{index:06d}.png"
            Image.fromarray(render(sample.scene, image_size)).save(out / name)
            lines.write(json.dumps({"image": name, "text": sample.caption}) + "\n")


if __name__ == "__main__":
    typer.run(main)
