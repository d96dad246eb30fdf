"""The tabs' functions, without a browser."""

import base64
import io
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("gradio")

from semantic_routing.evaluation.scenes import choose_prompts
from semantic_routing.io.jsonl import append_line
from semantic_routing.pipelines.generate import generate_files
from semantic_routing.reporting.arrays import NamedArray
from semantic_routing.scenes import render
from semantic_routing.ui import verdicts
from semantic_routing.ui.compare_tab import Side, compare, difference
from semantic_routing.ui.generate_tab import MOST_EARLIER, NOTHING_BEFORE, file_name, generate, history, remember
from semantic_routing.ui.html import HeatMap, Row, Shown, heat_map, rows_of_pictures
from semantic_routing.ui.layers_tab import Inside, gains_text, look_inside, maps, with_gains
from semantic_routing.ui.models import Models
from semantic_routing.ui.settings import Defaults, Settings
from semantic_routing.ui.train_tab import MOST_POINTS, find_runs, read_run
from semantic_routing.ui.verdicts import false_caption_costs, scene_of, verdict, verdict_table

SCENE = choose_prompts(["color_attr"])[0]
FEW = {"steps": 2, "images": 2}


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(["demo"])


def pictures_in(html: str) -> list[Image.Image]:
    """The pictures that a part of the page shows."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_pictures_are_those_of_the_command(models: Models, tmp_path: Path) -> None:
    made = models.make(Settings(SCENE.prompt, seed=3, **FEW))
    (path, other) = generate_files([SCENE.prompt], tmp_path, "demo", 2, 3, 2, 2.0)
    assert [np.asarray(image).tolist() for image in made] == [
        np.asarray(Image.open(each)).tolist() for each in (path, other)
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"prompt": " "}, "There is no prompt"),
        ({"prompt": "a" * 1001}, "The prompt has 1001 characters, but at most 1000"),
        ({"negative_prompt": "a" * 1001}, "The negative prompt has 1001"),
        ({"seed": None}, "Seed must be a whole number from 0 to 4294967295, not None"),
        ({"images": 17}, "Images must be a whole number from 1 to 16, not 17"),
        ({"steps": 0}, "Steps must be a whole number from 1 to 200, not 0"),
        ({"size": 2048}, "Size must be a whole number from 1 to 1024, not 2048"),
        ({"guidance": float("nan")}, "Guidance must be from 0 to 20, not nan"),
        ({"fusion_scale": 5}, "Fusion scale must be from 0 to 4, not 5"),
        ({"layer_gains": "three"}, "Gains are written LAYER=FACTOR"),
    ],
)
def test_limits_are_told_before_any_work(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Settings(**{"prompt": "a star", **changed})


def test_a_saved_picture_can_be_made_again_from_its_file(models: Models) -> None:
    made = generate(models, Settings(SCENE.prompt, negative_prompt="a heart", seed=5, layer_gains="3=0", **FEW))
    (_, second) = pictures_in(rows_of_pictures([made.row]))
    assert second.text["prompt"] == SCENE.prompt
    assert second.text["seed"] == "6"
    (again,) = models.make(Settings(**json.loads(second.text["settings"])))
    # Another batch changes the rounding.
    assert np.abs(np.asarray(again, dtype=int) - np.asarray(second, dtype=int)).max() <= 1


def test_what_a_user_types_is_shown_and_not_run() -> None:
    shown = Shown(Image.new("RGB", (4, 4)), '"><script>', "<b>", "a.png")
    html = rows_of_pictures([Row("<i>", [shown])])
    assert "<script>" not in html
    assert "<b>" not in html
    assert "<i>" not in html


def test_file_names_have_words_alone() -> None:
    assert file_name("a Blue star/../x", 3) == "a-blue-star-x-3.png"
    assert file_name("…", 0) == "picture-0.png"


def test_a_history_is_its_users_own_and_ends(models: Models) -> None:
    made = generate(models, Settings("a star", steps=1, images=1))
    mine: list[Any] = []
    for _ in range(MOST_EARLIER + 1):
        mine, before = remember(mine, made), mine
    assert len(mine) == len(before) == MOST_EARLIER
    assert before is not mine
    assert history(mine).count("<section") == MOST_EARLIER
    assert history([]) == NOTHING_BEFORE


def test_pictures_of_scenes_are_judged_claim_by_claim() -> None:
    sample = scene_of("  " + SCENE.prompt.upper())
    assert sample is not None
    right = Image.fromarray(render(sample.scene, 32))
    empty = Image.new("RGB", (32, 32), (140, 140, 145))
    assert verdict(SCENE.prompt, right)
    assert verdict(SCENE.prompt, empty) is False
    assert verdict("a cat", right) is None
    found = verdict_table(SCENE.prompt, {"A": [right, empty], "B": [empty]})
    assert found is not None
    assert len(found.rows) == len(sample.claims) + 1
    assert list(found.rows[-1]) == ["all claims", "1 of 2", "0 of 1"]
    assert verdict_table("a cat", {"A": [right]}) is None


def test_false_captions_cost_the_demo_model_something(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "DRAWS", 4)
    with models.use("demo") as pipeline:
        costs = false_caption_costs(pipeline, SCENE.prompt)
        assert false_caption_costs(pipeline, "a cat") == {}
    assert len(costs) > 1
    assert np.concatenate(list(costs.values())).mean() > 0


def test_differences() -> None:
    first = Image.new("RGB", (4, 4), (10, 200, 0))
    second = Image.new("RGB", (8, 8), (13, 0, 0))
    assert difference(first, second).getpixel((0, 0)) == (6, 255, 0)
    assert difference(first, first).getextrema() == ((0, 0), (0, 0), (0, 0))


def test_comparisons_share_their_noise(models: Models) -> None:
    steps: list[tuple[int, int]] = []
    plain, other = Side("demo", "", 2.0), Side("demo", "all=0,1=1", 2.0, 0.5)
    html = compare(models, "a cat", [plain, plain, other], 7, 2, 2, on_step=lambda *done: steps.append(done))
    assert steps[0] == (1, 6)
    assert steps[-1] == (6, 6)
    a0, a1, b0, b1, c0, _, *differences = [np.asarray(picture) for picture in pictures_in(html)]
    assert (a0 == b0).all()
    assert (a1 == b1).all()
    assert (a0 != c0).any()
    assert not differences[0].any()
    assert differences[2].any()
    assert "C: demo · guidance 2 · layers all=0,1=1 · fusion scale 0.5" in html
    assert "<table" not in html  # nothing to judge


def test_a_comparison_needs_two_sides(models: Models) -> None:
    with pytest.raises(ValueError, match="two sides or more, but 1"):
        compare(models, "a star", [Side("demo", "", 2.0)])


def test_only_pipelines_of_the_page_are_opened(models: Models) -> None:
    with pytest.raises(ValueError, match="no pipeline '/etc': expected one of demo"):
        models.make(Settings("a star", pipeline="/etc"))


def test_users_take_turns(models: Models) -> None:
    entered = threading.Event()

    def other() -> None:
        with models.use("demo"):
            entered.set()

    waiting = threading.Thread(target=other)
    during: list[bool] = []

    def on_step(step: int, total: int) -> None:
        if step == 1:
            waiting.start()
        during.append(entered.wait(0.05))

    models.make(Settings("a star", **FEW), on_step)
    waiting.join()
    assert during == [False, False]
    assert entered.is_set()


def test_inside_of_a_model(models: Models) -> None:
    inside = look_inside(models, Settings(SCENE.prompt, steps=2, images=1))
    assert inside.weights is not None
    np.testing.assert_allclose(inside.weights.values.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(inside.attention.values.sum(-1), 1, rtol=1e-6)
    assert inside.by_token is None
    html = maps(inside, 0.5)
    assert html.count("<table") == 2
    for word in SCENE.prompt.split():
        assert f'<th scope="col">{word}</th>' in html


def test_maps_are_of_the_nearest_time() -> None:
    along: dict[str, list[float]] = {"flow_time": [0.0, 1.0], "block": [0]}
    weights = NamedArray(np.array([[[0.9, 0.1]], [[0.25, 0.75]]]), {**along, "layer": [3, 5]})
    attention = NamedArray(np.ones((2, 1, 1)), {**along, "token": ["0: star"]})
    tokens = NamedArray(np.array([[0.4, 0.6]]), {"token": ["0: star"], "layer": [3, 5]})
    early, late = (maps(Inside(weights, attention, tokens), time) for time in (0.2, 0.8))
    assert "0.90" in early
    assert "0.75" in late
    assert "0.75" not in early
    assert "0.60" in early


def test_colors_of_a_map_have_one_scale() -> None:
    html = heat_map(HeatMap("map", np.array([[0.0, 1.0, 2.0]]), ["row"], ["a", "b", "c"], "corner", "gray", 0.0, 1.0))
    assert re.findall(r"background:(#\w+);color:(#\w+)", html) == [
        ("#000000", "#fff"),
        ("#ffffff", "#000"),
        ("#ffffff", "#000"),
    ]


def test_gains_of_sliders(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "defaults", lambda name: Defaults(2, 2.0))
    assert gains_text([1, 2, 3], [1, 0, 2.5, 1]) == "2=0,3=2.5"
    plain, changed, changes = pictures_in(with_gains(models, "demo", "a star", 0, [0, 0, 0, 0, 1, 0]))
    assert (np.asarray(plain) != np.asarray(changed)).any()
    assert np.asarray(changes).any()


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[[str, int], Path]:
    def make(name: str, lines: int) -> Path:
        run = tmp_path / name
        (run / "samples").mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump({"training": {"steps": 2000, "batch_size": 4}}))
        (run / "metrics.jsonl").touch()
        for step in range(1, lines + 1):
            append_line(run / "metrics.jsonl", {"step": step, "loss": 1 / step, "images_per_second": 10.0})
        return run

    return make


def test_a_run_is_read_as_it_grows(run_folder: Callable[[str, int], Path], tmp_path: Path) -> None:
    run = run_folder("scenes/mine", 1000)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10')  # cut short
    Image.new("RGB", (4, 4)).save(run / "samples" / "step-00000500.png")
    assert find_runs(tmp_path) == ["scenes/mine"]
    view = read_run(tmp_path, "scenes/mine")
    step, _, speed, left = view.summary.rows[0]
    assert (step, speed, left) == ("1,000 of 2,000", "10.0", "0:06:40")
    assert len(view.curves["loss"]) <= MOST_POINTS
    assert view.curves["loss"]["value"].iloc[0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert view.curves["fusion_travel"].empty
    assert view.sample is not None
    assert view.sample.caption == "after 500 steps"


def test_a_run_that_has_just_begun(run_folder: Callable[[str, int], Path], tmp_path: Path) -> None:
    run_folder("young", 0)
    view = read_run(tmp_path, "young")
    assert view.sample is None
    assert "no metrics yet" in view.summary.rows[0]


def test_runs_elsewhere_are_not_read(run_folder: Callable[[str, int], Path], tmp_path: Path) -> None:
    run_folder("outside", 1)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=re.escape("There is no run '../outside'")):
        read_run(tmp_path / "runs", "../outside")
