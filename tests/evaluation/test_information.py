"""Nats from denoising errors: closed forms, exact posteriors, pairing, and what a user can get wrong."""

import json
from math import log
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import yaml

from semantic_routing.evaluation import exact_check
from semantic_routing.evaluation.captioned import CaptionedPicture, folder_pictures, scene_pictures
from semantic_routing.evaluation.compare import compare
from semantic_routing.evaluation.exact import Candidates, exact_denoiser
from semantic_routing.evaluation.information import (
    BANDS,
    LOG_SNR,
    Denoise,
    Subject,
    gaussian,
    integrate,
    nats_per_log_snr,
    sigma_of,
    squared_errors,
)
from semantic_routing.evaluation.information_run import InformationOptions, run
from semantic_routing.evaluation.result import Tally
from semantic_routing.scenes import Description
from semantic_routing.scenes.grammar import Plan
from semantic_routing.scenes.pictures import all_pictures
from semantic_routing.scenes.stream import Spacing, lay_out

WIDE = [0.5 * point for point in range(-16, 13)]


def test_sigma_is_of_the_signal_to_noise_ratio() -> None:
    for log_snr in (-3.0, 0.0, 2.0):
        sigma = sigma_of(log_snr)
        assert 2 * log((1 - sigma) / sigma) == pytest.approx(log_snr)


def test_bands_are_parts_of_the_whole() -> None:
    curve = np.random.default_rng(0).random(len(LOG_SNR))
    assert sum(integrate(curve, LOG_SNR, band) for band in BANDS) == pytest.approx(float(integrate(curve)))
    assert all(end in LOG_SNR for band in BANDS for end in band)


def test_a_gaussians_cost_is_known_in_closed_form() -> None:
    """½ ∫ 1 / (1 + γ) dγ = ½ log((1 + γ₂) / (1 + γ₁)) a dimension, for pictures of unit variance."""

    def denoiser(captions: list[str]) -> Denoise:
        return lambda noisy, sigma: (1 - sigma) * noisy / ((1 - sigma) ** 2 + sigma**2)

    latents = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    subjects = [Subject(f"s{i}", latent, ["any"]) for i, latent in enumerate(latents)]
    cost = integrate(nats_per_log_snr(squared_errors(denoiser, subjects, 0, WIDE), WIDE), WIDE)
    known = 0.5 * 3 * 16 * 16 * log((1 + np.exp(WIDE[-1])) / (1 + np.exp(WIDE[0])))
    assert cost.mean() == pytest.approx(known, rel=0.01)


def test_exact_cost_is_minus_log_likelihood_and_information_the_log_of_their_ratio() -> None:
    """Four pictures, and a caption that leaves out two of them; they are told apart where σ is about a half."""
    pictures = 0.5 * torch.randn(4, 12, generator=torch.Generator().manual_seed(3)).double()
    chances = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    known = {
        "": Candidates(pictures, chances.log()),
        "first two": Candidates(pictures[:2], (chances[:2] / chances[:2].sum()).log()),
    }
    subjects = [Subject(f"s{i}", pictures[1].view(3, 2, 2).float(), ["", "first two"]) for i in range(600)]
    errors = squared_errors(exact_denoiser(known.__getitem__), subjects, 0, WIDE)
    nats = integrate(nats_per_log_snr(errors, WIDE), WIDE).reshape(-1, 2)
    error = nats.std(0) / len(nats) ** 0.5
    likelihoods = -np.log([0.2, 2 / 3])
    # What one picture costs, averaged over noise, is its own −log p: 2302.03792 shows it pointwise.
    assert (np.abs(nats.mean(0) - likelihoods) < 4 * error + 0.02).all()
    told = nats[:, 0] - nats[:, 1]
    assert told.mean() == pytest.approx(log(1 / 0.3), abs=4 * told.std() / len(told) ** 0.5 + 0.02)


def test_pictures_of_a_caption_are_those_of_the_stream_as_often() -> None:
    plan = Plan((Description("square", "green"),), "a green square", ())
    assert len(all_pictures(plan, spacing=1)) == 1212
    listed = dict(all_pictures(plan, spacing=4))
    assert len(listed) == 108
    assert sum(listed.values()) == pytest.approx(1)
    random, drawn = Random(5), 3000
    counts = dict.fromkeys(listed, 0)
    for _ in range(drawn):
        counts[lay_out(random, plan, "train", Spacing(4, 4))] += 1  # a scene that is not listed is a KeyError
    deviation = sum((counts[scene] - drawn * chance) ** 2 / (drawn * chance) for scene, chance in listed.items())
    assert deviation < 107 + 5 * (2 * 107) ** 0.5  # chi-squared


def test_pictures_of_two_objects_are_those_of_the_stream_as_often() -> None:
    plan = Plan((Description("square", "red"), Description("star", "blue")), "", (), "grey")
    listed = dict(all_pictures(plan))
    random, seen = Random(6), 0.0
    for _ in range(1000):
        seen += listed[lay_out(random, plan, "train", Spacing(4, 4))]
    expected = sum(chance**2 for chance in listed.values())
    assert seen / 1000 == pytest.approx(expected, rel=0.08)


def test_noise_is_of_seed_example_and_point_alone() -> None:
    once = gaussian(0, "a", -1.0, (3, 4, 4))
    assert torch.equal(once, gaussian(0, "a", -1.0, (3, 4, 4)))
    for other in (
        gaussian(1, "a", -1.0, (3, 4, 4)),
        gaussian(0, "b", -1.0, (3, 4, 4)),
        gaussian(0, "a", 0.0, (3, 4, 4)),
    ):
        assert not torch.equal(once, other)


@pytest.fixture(scope="module")
def measured(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("information")
    options = InformationOptions(skills=("position", "colors"), examples=3, batch_size=4, device="cpu")
    run(str(tiny_pipeline), options, out / "both")
    run(str(tiny_pipeline), InformationOptions(skills=("colors",), examples=2, batch_size=1, device="cpu"), out / "one")
    return out


def test_pictures_and_values_do_not_depend_on_batches_or_on_other_skills(measured: Path) -> None:
    both, one = (json.loads((measured / name / "result.json").read_text())["values"] for name in ("both", "one"))
    assert set(one) < set(both)
    assert {key: both[key] for key in one} == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_a_result_has_rows_for_skills_bands_and_edits_and_compares_pair_by_pair(measured: Path) -> None:
    result = json.loads((measured / "both" / "result.json").read_text())
    rows = {(row["name"], row["part"]): row for row in result["rows"]}
    assert {"position", "colors", "overall", "log γ -8 to -5", "edit: color"} <= {name for name, _ in rows}
    assert {part for _, part in rows} == {"cost", "information", "heard"}
    whole = rows["overall", "cost"]
    assert whole["low"] < whole["score"] < whole["high"]
    bands = [row["score"] for (name, part), row in rows.items() if name.startswith("log γ") and part == "cost"]
    assert sum(bands) == pytest.approx(whole["score"])
    lines = [json.loads(line) for line in (measured / "both" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(len(curve) == len(LOG_SNR) for line in lines for curve in line["curves"].values())
    assert (measured / "both" / "curves.png").is_file()
    assert "heard: color" in (measured / "both" / "curves.csv").read_text()
    table = compare([[measured / "both"], [measured / "both"]]).table()
    assert any("+0.000" in cell for row in table.rows for cell in row)


def write_data(folder: Path, **changes: object) -> Path:
    from PIL import Image

    Image.new("RGB", (40, 32), (255, 0, 0)).save(folder / "a.png")
    record = {"image": "a.png", "text": "a red square", "edits": {"color": "a blue square"}, "skill": "colors"}
    path = folder / "data.jsonl"
    path.write_text(json.dumps(record | changes) + "\n" + json.dumps({**record, "image": "b.png"}) + "\n")
    return path


def test_a_users_pictures_and_pairs(tiny_pipeline: Path, tmp_path: Path) -> None:
    options = InformationOptions(data=write_data(tmp_path), unconditional=False, device="cpu")
    result = run(str(tiny_pipeline), options, tmp_path / "out")
    assert {row.part for row in result.rows} == {"cost", "heard"}
    assert "1 unreadable records: b.png" in result.remark


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"edits": {"color": "a red square"}}, "The edit 'color' of record 0 leaves the caption unchanged"),
        ({"edits": ["a blue square"]}, "Record 0 has edits"),
        ({"image": "c.png"}, "No record of .* has both a caption and a picture"),
    ],
)
def test_unusable_data_are_one_sentence(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        folder_pictures(write_data(tmp_path, **changes), 5, 32, Tally(expected=0))


def test_captions_without_pictures_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"text": "a red square"}\n')
    with pytest.raises(ValueError, match="have no key 'image'"):
        folder_pictures(path, 5, 32, Tally(expected=0))


def described(pipeline: Path, folder: Path, **source: object) -> Path:
    """The pipeline with a `config.yaml` of a training without caption dropout."""
    folder.mkdir()
    for entry in pipeline.iterdir():
        (folder / entry.name).symlink_to(entry)
    data = {"source": {"source": "scenes", "skills": ["colors"], **source}, "caption_dropout": 0.0}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return folder


def test_estimates_stand_beside_exact_values(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_check, "DRAWN", 20)
    monkeypatch.setattr(
        exact_check, "TRAINED", [each for each in exact_check.TRAINED if each.color in ("red", "black")]
    )
    table = exact_check.check(str(described(tiny_pipeline, tmp_path / "a", spacing=4)), 4, device="cpu")
    assert len(table.rows) == len(LOG_SNR) + 2
    exact, estimated = (float(number) for number in table.rows[-2][1].split(" ± ")[0].split(" → "))
    assert 2 < exact < 8 < estimated  # −log p of one of 108 pictures; random weights do worse
    with pytest.raises(ValueError, match="known for models of scenes with spacing 4"):
        exact_check.check(str(described(tiny_pipeline, tmp_path / "b", spacing=1)), 4, device="cpu")


def test_a_model_without_an_unconditional_branch_has_no_information(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = described(tiny_pipeline, tmp_path / "pipeline", spacing=4)
    with pytest.raises(ValueError, match="caption_dropout 0 and so has no unconditional branch"):
        run(str(folder), InformationOptions(examples=2, device="cpu"), tmp_path / "out")
    options = InformationOptions(examples=2, unconditional=False, edited=False, device="cpu")
    assert {row.part for row in run(str(folder), options, tmp_path / "out").rows} == {"cost"}


def test_edits_are_false_captions_by_kind() -> None:
    pictures = scene_pictures(["position"], 3, "train", 32, {"spacing": 4})
    assert all(isinstance(each, CaptionedPicture) and each.edits for each in pictures)
    assert {"relation", "shape"} <= set(pictures[0].edits)
