"""The example that writes a folder of plain relations."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semantic_routing.scenes import Related, detect
from semantic_routing.scenes.claims import Description
from semantic_routing.scenes.grammar import PLANNERS
from semantic_routing.scenes.held_out import NEVER_SHOWN, shown

EXAMPLE = Path(__file__).parents[2] / "examples" / "first_relations.py"


def test_pictures_show_what_their_captions_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = runpy.run_path(str(EXAMPLE))
    monkeypatch.setitem(PLANNERS, example["SKILL"], None)  # put back afterwards
    example["main"](tmp_path, count=60)
    records = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert len(records) == 60
    relations = set()
    for record in records:
        scene = detect(np.asarray(Image.open(tmp_path / record["image"])))
        _, color, shape, relation, _, _, other_color, other_shape = record["text"].split()
        assert len(scene.objects) == 2
        assert {thing.size for thing in scene.objects} == {"large"}
        assert Related(relation, Description(shape, color), Description(other_shape, other_color)).holds(scene)
        assert NEVER_SHOWN.isdisjoint(shown(scene))
        relations.add(relation)
    assert relations == {"left", "right"}
