"""Pictures against captions: CLIP scores, distances of sets, slices by tag, and what is not there."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from semantic_routing.evaluation import CaptionedImages, image_features
from semantic_routing.evaluation.image_features import Clip, FrozenNetwork, cmmd, fid, kid
from semantic_routing.evaluation.runner import score

COUNT = 12


@pytest.fixture
def tiny_models(tiny_clip, tmp_path):
    """A CLIP with its processor, as a folder."""
    from transformers import CLIPImageProcessorPil

    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(tiny_clip)
    return str(tiny_clip)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures with captions and tags, and pictures made for them."""
    random = np.random.default_rng(0)
    records = []
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
    for number in range(COUNT):
        for name in ("real", "made"):
            noise = random.integers(0, 256, (24, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"cat{number}.png")
        tags = ["cats", "even"] if number % 2 == 0 else "cats"
        records.append({"image": f"real/cat{number}.png", "text": f"cat {'abc'[number % 3]}", "tags": tags})
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def benchmark(folder, model, **options):
    chosen = {"clip": model, "features": model, "cmmd_clip": model, "least": 6, "device": "cpu"}
    return CaptionedImages(folder / "set.jsonl", **{**chosen, **options})


def test_scores_by_tag_and_distances(folder, tiny_models):
    result = score(benchmark(folder, tiny_models), folder / "out", folder / "made")
    assert result.complete
    rows = {(row.name, row.part): row for row in result.rows}
    clip = Clip(tiny_models, "cpu")
    images = [Image.open(folder / "made" / f"cat{number}.png") for number in range(COUNT)]
    captions = [f"cat {'abc'[number % 3]}" for number in range(COUNT)]
    cosines = 100 * (clip.images(images) * clip.texts(captions)).sum(-1).clamp(min=0)
    assert rows["overall", "CLIP score"].score == pytest.approx(float(cosines.mean()), abs=1e-3)
    assert rows["even", "CLIP score"].score == pytest.approx(float(cosines[::2].mean()), abs=1e-3)
    real = clip.images([Image.open(folder / "real" / f"cat{number}.png") for number in range(COUNT)])
    made = clip.images(images)
    assert rows["overall", "CMMD"].score == pytest.approx(cmmd(real, made), abs=1e-4)
    assert rows["even", "CMMD"].score == pytest.approx(cmmd(real[::2], made[::2]), abs=1e-4)
    assert rows["even", "FID"].low is None
    assert result.settings["cmmd"]["model"] == tiny_models
    assert "cats" in (folder / "out" / "result.md").read_text()
    # Real pictures beside themselves.
    same = score(benchmark(folder, tiny_models), folder / "same", folder / "real")
    distances = {row.part: row.score for row in same.rows if row.name == "overall"}
    assert abs(distances["FID"]) < 1e-3
    assert abs(distances["CMMD"]) < 1e-3
    few = score(benchmark(folder, tiny_models, least=7, distances="cmmd"), folder / "few", folder / "made")
    assert {row.name: row.score is None for row in few.rows if row.part == "CMMD"} == {
        "cats": False,
        "even": True,
        "overall": False,
    }


def test_distances_are_what_they_say():
    random = torch.Generator().manual_seed(0)
    one = torch.randn(400, 3, generator=random).double()
    shifted = one * 2 + 3
    # Of normal distributions with these means and covariances.
    means = (one.mean(0) - shifted.mean(0)).square().sum()
    assert fid(one.float(), shifted.float()) == pytest.approx(float(means + torch.cov(one.T).trace()), rel=1e-3)
    gauss = lambda a, b: torch.exp(-(torch.cdist(a, b) ** 2) / 200).mean()  # noqa: E731
    expected = 1000 * float(gauss(one, one) + gauss(shifted, shifted) - 2 * gauss(one, shifted))
    assert cmmd(one.float(), shifted.float()) == pytest.approx(expected, rel=1e-4)
    other = torch.randn(400, 3, generator=random)
    state = torch.random.get_rng_state()
    assert abs(kid(one.float(), other)) < 100 < kid(one.float(), shifted.float())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_missing_is_named(folder, tiny_models):
    (folder / "made" / "cat3.png").unlink()
    (folder / "made" / "cat4.png").write_bytes(b"no image")
    (folder / "real" / "cat5.png").write_bytes(b"no image")
    result = score(benchmark(folder, tiny_models, distances="cmmd"), folder / "out", folder / "made")
    assert {kind: len(names) for kind, names in result.problems.items()} == {
        "missing images": 1,
        "unreadable images": 1,
    }
    assert {row.score for row in result.rows if row.name == "overall"} == {None}
    assert result.settings["references"] == COUNT - 1
    assert result.settings["unreadable_references"][0].startswith("cat5.png")


@pytest.mark.parametrize(
    ("record", "options", "says"),
    [
        ({"text": 3}, {}, "Record 0 of .* has no caption"),
        ({"text": "a cat"}, {}, "Distances need pictures"),
        ({"text": "a cat", "tags": 3}, {}, "has the tags 3"),
        ({"text": "a cat"}, {"distances": "fad"}, "Distance is 'fad'"),
    ],
)
def test_mistakes(tmp_path, record, options, says):
    (tmp_path / "set.jsonl").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=says):
        CaptionedImages(tmp_path / "set.jsonl", **options)
    if record == {"text": "a cat"}:
        assert CaptionedImages(tmp_path / "set.jsonl", distances="none").prompts == {0: "a cat"}


def test_a_pipeline_predicts_the_records_pictures(folder, tiny_models, tiny_pipeline, tmp_path):
    def made(name, **options):
        chosen = {"clip": "none", "distances": "none", "predict": 8, "pipeline": str(tiny_pipeline)}
        own = CaptionedImages(folder / "set.jsonl", **{**chosen, **options}, device="cpu")
        return score(own, tmp_path / name, folder / "made")

    (folder / "real" / "cat3.png").write_bytes(b"no image")
    result = made("whole")
    rows = {(row.name, row.part): row for row in result.rows}
    assert {part for _, part in rows} == {"validation loss", "information"}
    # Of the first nine records one does not open; the tag "even" has those of 0, 2, 4, 6 and 8.
    assert (rows["cats", "validation loss"].prompts, rows["even", "validation loss"].prompts) == (8, 5)
    assert result.settings["predicted"]["pictures"] == 8
    assert len(result.settings["predicted"]["unreadable"]) == 1
    losses = [result.values[f"{number}/validation loss"] for number in (0, 2, 4, 6, 8)]
    assert rows["even", "validation loss"].score == pytest.approx(np.mean(losses))
    kept = (tmp_path / "whole" / "predictions.jsonl").read_text()
    assert made("whole").values == result.values
    assert (tmp_path / "whole" / "predictions.jsonl").read_text() == kept, "nothing is measured twice"
    assert made("beside", clip=tiny_models).values.items() >= result.values.items()


def test_the_loss_is_that_of_the_velocity():
    from semantic_routing.evaluation.information import Subject
    from semantic_routing.evaluation.prediction import velocity_losses
    from semantic_routing.training.validation_loss import SIGMAS

    clean = torch.rand(3, 4, 4)
    seen = []

    def denoiser(captions):
        def denoise(noisy, sigma):  # a sample that is off by σ / 2 is a velocity that is off by a half
            seen.append(sigma)
            return clean[None] + sigma / 2

        return denoise

    assert velocity_losses(denoiser, [Subject("a", clean, ["a cat"])]) == pytest.approx([0.25])
    assert seen == pytest.approx(SIGMAS)


def test_networks_that_are_missing_are_told_before_sampling(folder, tiny_models, tmp_path):
    for option, name in (("clip", "--clip"), ("features", "--features"), ("cmmd_clip", "--cmmd-clip")):
        with pytest.raises(ValueError, match=f"^{name} none/such cannot be loaded; `hf download none/such` brings it"):
            benchmark(folder, tiny_models, **{option: "none/such"}).check_judge(ask=True)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        benchmark(folder, tiny_models, clip=str(tmp_path)).check_judge(ask=True)
    benchmark(folder, tiny_models).check_judge(ask=True)
    with pytest.raises(ValueError, match=r"--clip none/such cannot be loaded"):
        score(benchmark(folder, "none/such"), tmp_path / "out", folder / "made")


def test_something_must_be_asked_for(folder, tiny_models):
    with pytest.raises(ValueError, match="leave nothing to measure"):
        benchmark(folder, "none", distances="none")


def test_networks_are_named_with_their_weights(folder, tiny_models, tmp_path):
    settings = score(benchmark(folder, tiny_models), tmp_path / "out", folder / "made").settings
    assert settings["clip"]["model"] == settings["fid"]["model"] == tiny_models
    assert len({settings[name]["weights"] for name in ("clip", "fid", "cmmd")}) == 1
    assert len(settings["clip"]["weights"]) == 64


def test_a_file_may_hold_inception_s_weights(folder, tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    from torchmetrics.image.fid import NoTrainInceptionV3

    path, other = tmp_path / "inception.pth", tmp_path / "other.pth"
    torch.save({}, other)
    with monkeypatch.context() as patched:  # the class has no other way to be made without its weights
        patched.setattr(NoTrainInceptionV3, "load_state_dict", lambda self, state: None)
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(other))
    torch.save(network.state_dict(), path)
    chosen = benchmark(folder, "none", distances="fid,kid", features=str(path))
    result = score(chosen, tmp_path / "out", folder / "made")
    found = {row.part: row.score for row in result.rows if row.name == "overall"}
    assert found["FID"] > 0
    assert found["KID"] is not None
    about = result.settings["fid"]
    assert (about["model"], about["revision"]) == ("inception-v3-compat", "inception.pth")
    assert len(about["weights"]) == 64
    for broken, content in ((other, {}), (tmp_path / "code.pth", {"a": Image.Image})):
        torch.save(content, broken)
        with pytest.raises(ValueError, match=rf"{broken.name} does not hold the weights of FID's Inception network"):
            FrozenNetwork(str(broken), "cpu")


def test_inception_is_looked_for_before_sampling(folder, monkeypatch):
    find_spec = image_features.find_spec
    monkeypatch.setattr(image_features, "find_spec", lambda name: name == "torch_fidelity" or find_spec(name))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError, match=r"weights are not at hand \(no network\); put https://.* by --features"):
        benchmark(folder, "none", distances="fid", features="inception").check_judge(ask=True)
    monkeypatch.setattr(image_features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="need torch-fidelity"):
        benchmark(folder, "none", distances="fid", features="inception").check_judge(ask=True)
