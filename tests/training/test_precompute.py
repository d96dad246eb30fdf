"""Latents computed ahead train as the images do, and are the same however often computing them was interrupted."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from tiny import write_images
from torch import Tensor
from typer.testing import CliRunner

from semantic_routing.cli import app
from semantic_routing.data import collate
from semantic_routing.data.latents import Manifest
from semantic_routing.io.jsonl import read_lines
from semantic_routing.models.latents import LatentCodec
from semantic_routing.training import train
from semantic_routing.training.build import build_codecs
from semantic_routing.training.config import Config, load_config
from semantic_routing.training.export import export_pipeline
from semantic_routing.training.precompute import precompute
from semantic_routing.training.trainer import make_trainer

CPU = torch.device("cpu")
BROKEN = (2, 8, 9, 10, 11)  # of the last shard of four all


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Twelve images, some broken, with lists of captions; some keep an original."""
    path = write_images(tmp_path / "set")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for index, record in enumerate(records):
        record["text"] = [record["text"], f"caption {index}"]
        if index % 3 == 0:
            record["original_text"] = f"original {index}"
    path.write_text("\n".join(json.dumps(record) for record in records))
    for index in BROKEN:
        (path.parent / "images" / f"{index}.png").write_bytes(b"broken")
    return path


@pytest.fixture
def run(make_config: Callable[..., Config], captions: Path, vae_folder: Path, tmp_path: Path) -> Callable[..., Config]:
    """`run(name)` trains on the images, `run(name, ahead=folder)` on latents."""

    def config(name: str = "run", ahead: Path | None = None, **changes: Any) -> Config:
        source = {"source": "json", "path": captions} if ahead is None else {"source": "latents", "path": ahead}
        data = {"source": source, "image_size": 16, "max_broken": 0.5, "caption_dropout": 0.3}
        return make_config(
            vae={"model": str(vae_folder)} | changes.get("vae", {}),
            model={"patch_size": 2},
            data=data | {"original_caption_rate": 0.5} | changes.get("data", {}),
            training={"output": tmp_path / name, "steps": 6} | changes.get("training", {}),
            validation=changes.get("validation", {}),
        )

    return config


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four examples."""
    whole = Manifest.__init__
    monkeypatch.setattr(Manifest, "__init__", lambda self, **values: whole(self, **{"shard_size": 4} | values))


Run = Callable[..., Config]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [("float32", "float32", 1e-5), ("bfloat16", "float32", 1e-2), ("float32", "bfloat16", 1e-2)],
)
def test_a_step_from_latents_is_the_step_from_images(
    run: Run, tmp_path: Path, dtype: str, precision: str, tolerance: float
) -> None:
    changes = {"vae": {"dtype": dtype}, "training": {"precision": precision}}
    report = precompute(run(**changes), tmp_path / "ahead", 3, CPU)
    assert (report.examples, len(report.broken)) == (12, len(BROKEN))
    ours, theirs = (
        make_trainer(run("ahead-run", tmp_path / "ahead", **changes)),
        make_trainer(run("images-run", **changes)),
    )
    seen = []
    for number in range(36):
        one, other = ours.stream[number], theirs.stream[number]
        assert one.captions == other.captions
        assert one.skipped == other.skipped
        assert one.noise_seeds.equal(other.noise_seeds)
        seen += one.captions
    assert {"", "original 3", "caption 4"} <= set(seen)
    batch, other = (collate([trainer.stream[number] for number in range(4)]) for trainer in (ours, theirs))
    assert batch.images.shape == (4, 8, 8, 8)
    with ours.accelerator.autocast():
        latents, expected = (
            trainer.subject.codec.encode(
                images, [torch.Generator().manual_seed(int(seed)) for seed in batch.noise_seeds]
            )
            for trainer, images in ((ours, batch.images), (theirs, other.images))
        )
    torch.testing.assert_close(latents, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours._loss(batch), theirs._loss(other), rtol=tolerance, atol=tolerance)


def test_a_whole_run_without_the_autoencoder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precompute(run(), tmp_path / "ahead", 3, CPU)
    expected = train(run("images"))
    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderKL, "from_pretrained", None)
        checkpoint = train(run("latents", tmp_path / "ahead", data={"num_workers": 1}))
    losses, others = (
        [line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("latents", "images")
    )
    assert len(losses) == 6
    assert losses == pytest.approx(others, rel=1e-4)
    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in load_file(expected / "model.safetensors").items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-3)
    # What is made of the run has its autoencoder all the same.
    exported = export_pipeline(checkpoint, tmp_path / "pipeline", with_text_encoder=False)
    assert (exported / "vae" / "diffusion_pytorch_model.safetensors").is_file()


def test_validation_images_are_decoded(run: Run, tmp_path: Path) -> None:
    precompute(run(), tmp_path / "ahead", 4, CPU)
    validation = {"every": 1, "prompts": ["a star"], "num_inference_steps": 1}
    train(run("watched", tmp_path / "ahead", training={"steps": 1}, validation=validation))
    assert (tmp_path / "watched" / "samples" / "step-00000001.png").is_file()


@pytest.mark.parametrize("images_before", [0, 3, 5])
def test_in_parts_or_in_one_go_the_files_are_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images_before: int
) -> None:
    precompute(run(), tmp_path / "whole", 2, CPU)
    encode, encoded = LatentCodec.posteriors, []

    def interrupted(codec: LatentCodec, images: Tensor) -> Tensor:
        if len(encoded) >= images_before:
            raise KeyboardInterrupt
        encoded.extend(images)
        return encode(codec, images)

    monkeypatch.setattr(LatentCodec, "posteriors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        precompute(run(), tmp_path / "parts", 2, CPU)
    shards = images_before // 3  # of the first four one is broken
    assert len(list((tmp_path / "parts").glob("shard-*.safetensors"))) == shards
    with pytest.raises(ValueError, match=rf"parts has {shards} of 3 shards; run sroute precompute again"):
        train(run("early", tmp_path / "parts"))
    (tmp_path / "parts" / "shard-00001.safetensors.partial").write_bytes(b"what a kill may leave")
    monkeypatch.setattr(LatentCodec, "posteriors", lambda *args: encoded.append(args[1]) or encode(*args))
    encoded.clear()
    precompute(run(), tmp_path / "parts", 2, CPU)
    assert sum(map(len, encoded)) == 7 - 3 * shards
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert files(tmp_path / "parts").keys() == {
        "lock",
        "manifest.json",
        *(f"shard-0000{n}.safetensors" for n in range(3)),
    }


def test_broken_images_are_named_and_too_many_stop_it(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        precompute(run(), tmp_path / "ahead", 3, CPU)
    messages = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith("Skipped a broken example: images/2.png: cannot") for message in messages) == 1
    assert messages[-1].startswith(f"{len(BROKEN)} broken examples were skipped: images/10.png")
    for _ in range(2):  # those of finished shards count as well
        with pytest.raises(ValueError, match=r"[34] of 12 examples are broken, more than data.max_broken 20.00%"):
            precompute(run(data={"max_broken": 0.2}), tmp_path / "few", 3, CPU)
    with pytest.raises(ValueError, match=r"[34] of 12 examples are broken, more than data.max_broken 20.00%"):
        train(run("strict", tmp_path / "ahead", data={"max_broken": 0.2}))


def test_a_damaged_shard_is_no_data(run: Run, tmp_path: Path) -> None:
    precompute(run(), tmp_path / "ahead", 3, CPU)
    shard = tmp_path / "ahead" / "shard-00001.safetensors"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1])
    with pytest.raises(ValueError, match=r"\d of 12 examples are broken.*example \d: .*shard-00001.safetensors is dam"):
        train(run("damaged", tmp_path / "ahead"))
    with pytest.raises(ValueError, match=r"shard-00001.safetensors is damaged: .*; remove it and run"):
        precompute(run(), tmp_path / "ahead", 3, CPU)
    shard.unlink()
    precompute(run(), tmp_path / "ahead", 3, CPU)
    assert shard.read_bytes() == sound


def other_vae(folder: Path, out: Path, **changes: Any) -> str:
    vae = AutoencoderKL.from_pretrained(folder)
    if changes:
        vae.register_to_config(**changes)
    else:
        vae.encoder.conv_in.weight.data[0, 0, 0, 0] += 1
    vae.save_pretrained(out)
    return str(out)


def test_latents_of_something_else_are_refused(run: Run, vae_folder: Path, tmp_path: Path) -> None:
    ahead = tmp_path / "ahead"
    precompute(run(), ahead, 3, CPU)
    before = files(ahead)
    changes: dict[str, dict[str, Any]] = {
        r"sha256='\w{64}'; the config's has '\w{64}'": {"vae": {"model": other_vae(vae_folder, tmp_path / "trained")}},
        "scaling_factor=1.5; the config's has 2.0": {
            "vae": {"model": other_vae(vae_folder, tmp_path / "scaled", scaling_factor=2.0)}
        },
        "shift_factor=0.06; the config's has 0.0": {
            "vae": {"model": other_vae(vae_folder, tmp_path / "shifted", shift_factor=None)}
        },
        "dtype='float32'; the config's has 'bfloat16'": {"vae": {"dtype": "bfloat16"}},
        "latents of images of 16 pixels; data.image_size is 24": {"data": {"image_size": 24}},
    }
    for sentence, change in changes.items():
        with pytest.raises(ValueError, match=sentence):
            train(run("other", ahead, **change))
        with pytest.raises(ValueError, match=r"ahead was begun with (vae\.\w+|image_size) .*; the config says "):
            precompute(run(**change), ahead, 3, CPU)
    with pytest.raises(ValueError, match=r"precision='float32'; the config's has 'bfloat16'"):
        build_codecs(run("other", ahead, training={"precision": "bfloat16"}), CPU)
    assert not (tmp_path / "other").exists()
    assert files(ahead) == before
    (ahead / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest.json is not a manifest that sroute precompute wrote"):
        train(run("other", ahead))
    (ahead / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"ahead holds shards and no manifest.json"):
        precompute(run(), ahead, 3, CPU)
    with pytest.raises(OSError, match=r"manifest.json"):
        train(run("other", ahead))


def test_the_command(run: Run, tmp_path: Path) -> None:
    def sroute(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    path, ahead = tmp_path / "config.yaml", tmp_path / "ahead"
    path.write_text(run().to_yaml())
    result = sroute("precompute", path, ahead, "data.num_workers=1", "--batch-size", 5, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"Wrote latents of 7 of 12 examples to {ahead}." in result.output
    override = f"data.source={{source: latents, path: {ahead}}}"
    assert override in result.output
    assert load_config(str(path), [override]) == run(ahead=ahead)
    refused = {
        "data.source={source: scenes}": "data.source 'scenes' is endless",
        override: "data.source is latents already",
        "vae=": "the config has no vae section",
        "data.random_crop=true": "data.random_crop cannot be combined with latents",
        "data.horizontal_flip=true": "data.horizontal_flip cannot be combined with latents",
        "data.image_size=17": "data.image_size 17 is not a multiple of 4",
    }
    for change, sentence in refused.items():
        size = ["data.image_size=32"] if "scenes" in change else []
        error = sroute("precompute", path, tmp_path / "none", change, *size).exception
        assert isinstance(error, ValueError)
        assert sentence in str(error)
        assert not (tmp_path / "none").exists()
    for change in list(refused)[2:5]:
        with pytest.raises(ValueError, match=refused[change]):
            load_config(str(path), [override, change])
