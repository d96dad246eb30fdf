"""GenEval's models read out as the protocol says, and a folder scored from images to the official files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from semantic_routing.evaluation import GenEval
from semantic_routing.evaluation.geneval import colors, detector, scorer
from semantic_routing.evaluation.geneval.records import CLASSES
from semantic_routing.evaluation.geneval.summary import summarize_rows
from semantic_routing.evaluation.runner import sample, score
from semantic_routing.evaluation.sampler import Sampler
from semantic_routing.io.jsonl import read_lines

LINES = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a photo of a red car"},
    {
        "tag": "counting",
        "include": [{"class": "clock", "count": 2}],
        "exclude": [{"class": "clock", "count": 3}],
        "prompt": "a photo of two clocks",
    },
]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return str(path)


def test_masks_become_scores_and_boxes_as_in_the_protocol():
    random = np.random.default_rng(0)
    classes = torch.from_numpy(random.normal(size=(5, 81)).astype(np.float32)) * 3
    masks = torch.from_numpy(random.normal(size=(5, 7, 9)).astype(np.float32))
    masks[3] = -1.0
    found = detector.read_out(classes, lambda queries: masks[queries])
    odds = np.exp(classes.numpy())
    probability = odds[:, :80] / odds.sum(1, keepdims=True)
    expected = {}
    for query in range(5):
        inside = masks[query].numpy() > 0
        certain = 1 / (1 + np.exp(-masks[query].numpy()))
        quality = certain[inside].sum() / (inside.sum() + 1e-6)
        y, x = np.nonzero(inside)
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1) if inside.any() else (0, 0, 0, 0)
        for label in range(80):
            expected[round(float(probability[query, label] * quality), 5), CLASSES[label], tuple(map(float, box))] = 1
    best = np.sort(probability.ravel())[::-1][:100]
    assert len(found.detections) == len(best) == 100
    for entry in found.detections:
        assert (round(entry.score, 5), entry.label, entry.box) in expected
    assert len(found.masks) == 100
    passing = detector.read_out(classes, lambda queries: masks[queries], 0.3)
    wanted = [(one, mask.tolist()) for one, mask in zip(*found, strict=True) if one.score > 0.3]
    assert [(one, mask.tolist()) for one, mask in zip(*passing, strict=True) if one.score > 0.3] == wanted
    assert 0 < len(wanted) <= len(passing.detections) < 50


def test_masks_are_made_a_few_at_a_time_and_only_of_what_can_pass():
    made = []

    def masks_of(queries):
        made.append(len(queries))
        return torch.ones(len(queries), 4, 4)

    classes = torch.zeros(100, 81)
    classes[:20, 3] = 9.0
    found = detector.read_out(classes, masks_of, 0.3)
    assert (len(found.detections), sum(made), max(made)) == (20, 20, detector.MASKS_AT_ONCE)
    assert detector.read_out(torch.zeros(5, 81), masks_of, 0.3) == ([], [])


@pytest.mark.parametrize(
    ("size", "scaled"), [((512, 512), (800, 800)), ((640, 320), (1333, 667)), ((30, 90), (444, 1333))]
)
def test_images_are_scaled_to_short_800_and_long_1333(size, scaled):
    assert tuple(detector.resize(Image.new("RGB", size)).shape) == (3, scaled[1], scaled[0])


def test_a_plain_image_is_normalized_by_imagenets_mean():
    pixels = detector.resize(Image.new("RGB", (40, 40), (124, 116, 104)))
    assert pixels.abs().max() < 0.02


def test_the_detector_gives_masks_of_the_images_own_size(tiny_detector):
    instances = detector.Mask2FormerDetector(str(tiny_detector))(Image.new("RGB", (40, 30), "red"))
    assert {mask.shape for mask in instances.masks} == {(30, 40)}
    assert len(instances.detections) == 100


def test_a_detector_of_other_classes_is_refused(tmp_path, tiny_detector):
    config = json.loads((tiny_detector / "config.json").read_text())
    config["id2label"]["0"] = "wall"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'wall'"):
        detector.Mask2FormerDetector(str(tmp_path))


def test_clip_sees_the_middle_of_the_long_side():
    image = Image.new("RGB", (90, 30))
    image.paste((255, 255, 255), (30, 0, 60, 30))
    pixels = colors.preprocess(image, 30)
    white = (1 - torch.tensor(colors.MEAN)) / torch.tensor(colors.DEVIATION)
    assert pixels.shape == (3, 30, 30)
    assert torch.allclose(pixels[:, 15, 15], white, atol=1e-3)
    assert torch.allclose(pixels[:, :, 3:27], white[:, None, None].expand(3, 30, 24), atol=0.05)


def test_colors_are_the_nearest_sentences(tiny_clip):
    clip = colors.ClipColors(str(tiny_clip))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:50] = True
    boxes = [(10.0, 5.0, 50.0, 30.0), (0.0, 0.0, 60.0, 40.0)]
    named = clip(image, "car", boxes, [mask, None])
    for box, chosen, name in zip(boxes, [mask, None], named, strict=True):
        pixels = colors.preprocess(colors.object_crop(image, box, chosen), 32)[None]
        with torch.no_grad():
            picture = clip.model.get_image_features(pixel_values=pixels).pooler_output[0]
            scores = []
            for color in colors.COLORS:
                mean = torch.zeros(8)
                for template in colors.TEMPLATES:
                    tokens = clip.tokenizer([template.format(color=color, label="car")], return_tensors="pt")
                    text = clip.model.get_text_features(**tokens).pooler_output[0]
                    mean += text / text.norm()
                scores.append(float(picture @ mean / mean.norm()))
        assert name == colors.COLORS[int(np.argmax(scores))]


def test_from_prompts_to_the_official_files(prompts, tiny_pipeline, tiny_detector, tiny_clip, tmp_path):
    out = tmp_path / "out"
    # Random models score next to nothing; thresholds of zero let all through, and CLIP has colors to name.
    benchmark = GenEval(prompts, str(tiny_detector), str(tiny_clip), threshold=0.0, counting_threshold=0.0)
    sample(benchmark, Sampler(str(tiny_pipeline), steps=2, images_per_prompt=2), out)
    folders = sorted(path.name for path in (out / "images").iterdir())
    assert folders == ["00000", "00001", "00002"]
    assert json.loads((out / "images" / "00001" / "metadata.jsonl").read_text()) == LINES[1]
    assert sorted(path.name for path in (out / "images" / "00002" / "samples").iterdir()) == ["00000.png", "00001.png"]
    result = score(benchmark, out)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"} <= rows[0].keys()
    assert all(json.loads(row["metadata"]) == LINES[row["prompt_index"]] for row in rows)
    assert all(len(box) == 5 for boxes in json.loads(rows[0]["details"]).values() for box in boxes)
    assert json.loads((out / "summary.json").read_text()) == summarize_rows(rows)
    assert not any(row.name == "overall" for row in result.rows), "three tasks are not GenEval"
    by_tag = {(row.name, row.part): row.score for row in result.rows}
    shares = [np.mean([row["correct"] for row in rows if row["tag"] == line["tag"]]) for line in LINES]
    assert [by_tag[line["tag"], "images"] for line in LINES] == pytest.approx(shares)
    any_image = [max(row["correct"] for row in rows if row["tag"] == line["tag"]) for line in LINES]
    assert [by_tag[line["tag"], "any image"] for line in LINES] == any_image


def test_a_second_run_loads_no_model(prompts, tiny_detector, tiny_clip, tmp_path, monkeypatch):
    images = tmp_path / "out" / "images"
    for index in range(3):
        (images / str(index) / "samples").mkdir(parents=True)
        Image.new("RGB", (16, 16), (index, 0, 0)).save(images / str(index) / "samples" / "0000.png")
    first = score(GenEval(prompts, str(tiny_detector), str(tiny_clip)), tmp_path / "out", images_per_prompt=1)
    monkeypatch.setattr(scorer, "Scorer", lambda *args: pytest.fail("a model was loaded"))
    again = score(GenEval(prompts, str(tiny_detector), str(tiny_clip)), tmp_path / "out", images_per_prompt=1)
    assert again == first
    assert first.complete


def test_any_image_counts_prompts_with_at_least_one_correct_image(prompts, tmp_path, monkeypatch):
    def judge(self, image, prompt):
        return {"correct": image.getpixel((0, 0))[0] > 0, "reason": "", "details": {}, "colors": []}

    monkeypatch.setattr(GenEval, "judge", judge)
    for index, reds in enumerate([(0, 255), (255, 255), (0, 0)]):
        folder = tmp_path / "images" / str(index) / "samples"
        folder.mkdir(parents=True)
        for number, red in enumerate(reds):
            Image.new("RGB", (4, 4), (red, index, number)).save(folder / f"{number}.png")
    rows = {(row.name, row.part): row.score for row in score(GenEval(prompts), tmp_path, images_per_prompt=2).rows}
    assert [rows[tag, "images"] for tag in ("single_object", "colors", "counting")] == [0.5, 1, 0]
    assert [rows[tag, "any image"] for tag in ("single_object", "colors", "counting")] == [1, 1, 0]
    assert rows["mean of tasks", "any image"] == pytest.approx(2 / 3)


def test_verdicts_that_earlier_versions_wrote_are_still_known(prompts, tmp_path, monkeypatch):
    """The key of a verdict, and a ledger's line, as they were written before there was a runner."""
    folder = tmp_path / "images" / "00000" / "samples"
    folder.mkdir(parents=True)
    (folder / "00000.png").write_bytes(b"not even an image: it is known by its bytes")
    verdict = {"correct": True, "reason": "", "details": {"bench": [[0, 0, 1, 1, 0.5]]}, "colors": []}
    key = "2145beea609fea6c9824246ef337b447392ac2173bdbb9a4a85abf3c5b0ff074"
    (tmp_path / "ledger.jsonl").write_text(json.dumps({"key": key, **verdict}) + "\n")
    result = score(GenEval(prompts), tmp_path, images_per_prompt=1)
    assert result.remark.startswith("INCOMPLETE: 1 of 3 images scored; 2 missing images")
    assert result.values["0"] == 1
    assert len(read_lines(tmp_path / "ledger.jsonl")) == 1


def test_images_of_other_prompts_are_refused(prompts, tmp_path):
    folder = tmp_path / "images" / "00001"
    (folder / "samples").mkdir(parents=True)
    (folder / "metadata.jsonl").write_text(json.dumps(LINES[0]))
    with pytest.raises(ValueError, match="a photo of a bench"):
        score(GenEval(prompts), tmp_path)
