"""What lies beside the weights of a saved pipeline, and the files of `sroute generate`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tiny import tiny_pipeline

from semantic_routing.cli import app
from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.pipelines import generate as generating
from semantic_routing.pipelines.card import MARK, write_card
from semantic_routing.pipelines.generate import generate_files


@pytest.fixture(scope="module")
def pipeline(qwen3_vl: Path) -> SemanticRoutingPipeline:
    return tiny_pipeline(qwen3_vl)


@pytest.fixture
def saved(pipeline: SemanticRoutingPipeline, tmp_path: Path) -> Path:
    pipeline.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_card_says_what_the_folder_holds(saved: Path, pipeline: SemanticRoutingPipeline) -> None:
    text = (saved / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["semantic-routing", "joint"],
    }
    parameters = sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    assert f"{parameters / 1000:.1f} k parameters" in text
    for said in ("# mine", '("mine")', "fusion `joint`", "## Training data\n\nNot recorded", "num_blocks: 2"):
        assert said in text
    assert str(saved.parent) not in text
    data = {"source": {"source": "json", "path": "/home/me/photos/captions.jsonl"}, "image_size": 8}
    (saved / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    (saved / "scores.md").write_text("### moons\n\nall right\n")
    write_card(saved)
    text = (saved / "README.md").read_text()
    assert "path: captions.jsonl" in text
    assert "/home/me" not in text
    assert "## Scores\n\n### moons\n\nall right\n" in text


def test_a_card_of_the_user_s_is_never_replaced(saved: Path, pipeline: SemanticRoutingPipeline) -> None:
    own = (saved / "README.md").read_text().replace(MARK, "")
    (saved / "README.md").write_text(own)
    assert write_card(saved) is None
    pipeline.save_pretrained(saved)
    assert (saved / "README.md").read_text() == own


@pytest.mark.parametrize("on_the_hub", ["", "my own words\n"], ids=["new", "card"])
def test_pushing_brings_the_card(
    pipeline: SemanticRoutingPipeline, monkeypatch: pytest.MonkeyPatch, on_the_hub: str
) -> None:
    from diffusers.utils import hub_utils
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import EntryNotFoundError

    def load(*args: Any, **options: Any) -> ModelCard:
        if on_the_hub:
            return ModelCard(on_the_hub)
        raise EntryNotFoundError("none")

    pushed: dict[str, str] = {}

    def upload(repo_id: str, folder_path: str, **options: Any) -> str:
        pushed.update({path.name: path.read_text() for path in Path(folder_path).glob("*.*")})
        return repo_id

    monkeypatch.setattr(hub_utils.ModelCard, "load", load)
    monkeypatch.setattr(hub_utils, "create_repo", lambda *args, **options: type("Url", (), {"repo_id": "me/mine"}))
    monkeypatch.setattr(hub_utils, "upload_folder", upload)
    assert pipeline.push_to_hub("me/mine") == "me/mine"
    assert {"model_index.json", "pipeline.py", "README.md"} <= pushed.keys()
    if on_the_hub:
        assert "my own words" in pushed["README.md"]
    else:
        assert 'from_pretrained("me/mine")' in pushed["README.md"]


def test_scores_come_into_the_card(saved: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from semantic_routing.evaluation.result import Measure, Tally, summarize

    tally = Tally(expected=2)
    tally.add({"a": 1.0})
    tally.add({"a": 0.0})
    summarize("moons", tally, [Measure("overall", (("a",),))], {}, "Share of moons.").write(tmp_path / "scored")
    run = CliRunner().invoke(app, ["card", str(saved), "--scores", str(tmp_path / "scored")])
    assert run.exit_code == 0, run.output
    assert "### moons\n\n2 of 2 images scored" in (saved / "README.md").read_text()
    (saved / "README.md").write_text("mine")
    run = CliRunner().invoke(app, ["card", str(saved)])
    assert isinstance(run.exception, ValueError)
    assert (saved / "README.md").read_text() == "mine"


def test_images_keep_their_prompt_seed_and_settings(
    pipeline: SemanticRoutingPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "load_pipeline", lambda *args: pipeline)
    monkeypatch.setattr(generating, "MOST_ROWS", 2)
    options: dict[str, Any] = {"images_per_prompt": 2, "seed": 5, "steps": 2, "guidance": 1.5, "batch_size": 2}
    prompts = ["a red circle", "ein Äpfel", "a star"]
    gains = {"all": 0.5, (1, 2): 1.0}
    paths = generate_files(prompts, tmp_path, "mine", **options, layer_gains=gains, save_steps=True)
    assert [path.name for path in paths] == [f"0000{prompt}-{image}.png" for prompt in range(3) for image in range(2)]
    for number, path in enumerate(paths):
        with Image.open(path) as image, Image.open(path.with_stem(f"{path.stem}-steps")) as steps:
            assert (image.text["prompt"], image.text["seed"]) == (prompts[number // 2], str(5 + number % 2))
            assert json.loads(image.text["settings"]) == {
                "pipeline": "mine",
                "steps": 2,
                "guidance": 1.5,
                "size": [8, 8],
                "layer_gains": "all=0.5,1:2=1",
                "dtype": "float32",
            }
            assert steps.text == image.text
            assert (steps.n_frames, steps.size) == (2, (128, 128))
            steps.seek(1)
            assert steps.convert("RGB").tobytes() == image.convert("RGB").resize((128, 128), 0).tobytes()
    with Image.open(tmp_path / "grid.png") as grid:
        assert 2 * 128 < grid.height < 3 * 128
