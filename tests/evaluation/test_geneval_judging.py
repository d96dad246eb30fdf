"""GenEval's judging against the official scorer's own verdicts, and what the vectors cannot show."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from semantic_routing.evaluation.geneval.colors import object_crop
from semantic_routing.evaluation.geneval.judging import Detection, JudgingOptions, iou, judge, relative_position
from semantic_routing.evaluation.geneval.records import CLASSES, COLORS, RELATIONS, Record, read_prompts
from semantic_routing.evaluation.geneval.summary import summarize_rows

VECTORS = json.loads((Path(__file__).parent / "data" / "geneval_vectors.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_verdict_and_reason_are_the_official_ones(case):
    found = case["detections"]
    detections = [Detection(entry["class"], entry["score"], tuple(entry["box"])) for entry in found]
    verdict = judge(
        Record.model_validate(case["metadata"]),
        detections,
        lambda indices: [found[index]["color"] for index in indices],
        JudgingOptions(**case.get("options", {})),
    )
    expected = case["expected"]
    assert verdict.correct == expected["correct"]
    assert verdict.reason in expected.get("reason_any_of", [expected["reason"]])
    assert verdict.kept == expected["kept"]


@pytest.mark.parametrize("case", VECTORS["relative_position"])
def test_relations_are_the_official_ones(case):
    options = {"margin": case["position_threshold"]} if "position_threshold" in case else {}
    assert sorted(relative_position(case["box_a"], case["box_b"], **options)) == case["relations"]


@pytest.mark.parametrize("case", VECTORS["iou"])
def test_overlap_is_the_official_one(case):
    assert iou(case["box_a"], case["box_b"]) == pytest.approx(case["iou"], abs=1e-9)


@pytest.mark.parametrize("case", VECTORS["crops"])
def test_crop_is_the_official_one(case):
    y, x = np.mgrid[: case["height"], : case["width"]]
    image = np.stack([(17 * x + 3) % 256, (29 * y + 5) % 256, 11 * (x + y) % 256], axis=-1).astype(np.uint8)
    mask = np.zeros(image.shape[:2], bool)
    for x0, y0, x1, y1 in case["mask_rects"]:
        mask[y0:y1, x0:x1] = True
    options = case.get("options", {})
    cut = object_crop(
        Image.fromarray(image),
        tuple(case["box"]),
        mask if case.get("use_mask", True) else None,
        options.get("bgcolor", "#999"),
        options.get("crop", "1") == "1",
    )
    assert list(cut.size) == case["expected_size_wh"]
    assert np.array(cut).tolist() == case["expected_rgb_rows"]


@pytest.mark.parametrize("case", VECTORS["summary"])
def test_summary_is_the_official_one(case):
    assert summarize_rows(case["rows"]) == case["expected"]


boxes = st.tuples(*[st.integers(0, 500)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


# A busy machine is no failure.
unhurried = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(boxes, boxes)
def test_relations_turn_around_with_their_boxes(a, b):
    opposite = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))
    assert {opposite[relation] for relation in relative_position(a, b)} == set(relative_position(b, a))
    assert iou(a, b) == iou(b, a)


@unhurried
@given(st.permutations(range(6)))
def test_order_of_detections_does_not_matter(order):
    detections = [Detection("car", 0.4 + 0.1 * i, (100.0 * i, 0, 100 * i + 50, 50)) for i in range(6)]
    shuffled = [detections[i] for i in order]
    record = Record.model_validate({"tag": "x", "prompt": "x", "include": [{"class": "car", "count": 2}]})
    kept = judge(record, shuffled, lambda indices: []).kept["car"]
    assert [shuffled[i] for i in kept] == detections[::-1]


def test_classes_and_colors_are_the_benchmarks():
    assert len(CLASSES) == len(set(CLASSES)) == 80
    assert len(COLORS) == 10
    assert (CLASSES[64], CLASSES[65], CLASSES[66]) == ("computer mouse", "tv remote", "computer keyboard")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2"),
        ('{"tag": "colors", "prompt": "x", "include": [{"class": "dragon", "count": 1}]}', "dragon"),
        ('{"tag": "colors", "prompt": "x", "include": [{"class": "car", "count": 0}]}', "count"),
        (
            '{"tag": "position", "prompt": "x", "include": [{"class": "car", "count": 1, "position": ["above", 0]}]}',
            "earlier",
        ),
        ('["a photo of a car"]', "line 2"),
    ],
)
def test_a_wrong_prompt_file_is_named_by_its_line(tmp_path, line, says):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"tag": "colors", "prompt": "x", "include": [{"class": "car", "count": 1}]}\n' + line + "\n")
    with pytest.raises(ValueError, match=says):
        read_prompts(path)


def test_the_official_prompt_file_is_read_whole():
    path = Path(__file__).parents[3] / "shared" / "data" / "geneval_evaluation_metadata.jsonl"
    if not path.is_file():
        pytest.skip("the official prompt file is not part of this repository")
    records = read_prompts(path).records
    assert len(records) == 553
    assert {r.tag for r in records} == {"single_object", "two_object", "counting", "colors", "position", "color_attr"}
    assert {clause.label for r in records for clause in r.include} == set(CLASSES)
