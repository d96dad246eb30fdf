"""The loop: exact resume, whole checkpoints, clean exits, sentences for mistakes."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.training import NonFiniteLossError, checkpoint, train
from semantic_routing.training.config import Config
from semantic_routing.training.export import export_pipeline
from semantic_routing.training.subject import OwnModel
from semantic_routing.training.trainer import Trainer, make_trainer
from semantic_routing.training.validation_loss import ValidationLoss

FILES = ("model", "ema", "optimizer")
Make = Callable[..., Config]


@pytest.fixture
def make(tiny_values: dict[str, Any], tmp_path: Path) -> Make:
    def config(name: str = "run", **training: Any) -> Config:
        values = {**tiny_values, "training": tiny_values["training"] | {"output": str(tmp_path / name)} | training}
        return Config.model_validate(values)

    return config


def same(one: Path, other: Path) -> bool:
    pairs = [(load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")) for name in FILES]
    return all(a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a) for a, b in pairs)


def test_ten_steps_a_signal_and_ten_more_are_twenty(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(make("whole"))
    step = Trainer._optimizer_step

    def interrupted(trainer: Trainer, batches: Any) -> Any:
        if trainer.step == 9:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, batches)

    monkeypatch.setattr(Trainer, "_optimizer_step", interrupted)
    stopped = train(make("parts", checkpoint_every=100))
    assert checkpoint.checkpoint_step(stopped) == 10
    monkeypatch.undo()
    resumed = train(make("parts", checkpoint_every=100), "latest")
    assert checkpoint.checkpoint_step(resumed) == 20
    assert same(whole, resumed)
    assert not same(whole, whole.parent / "checkpoint-00000010")
    lines = [json.loads(line) for line in (resumed.parent / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (whole.parent / "metrics.jsonl").read_text().splitlines()]
    for key in ("step", "loss", "grad_norm", "learning_rate"):
        assert [line[key] for line in lines] == [line[key] for line in expected]
    assert [line["step"] for line in lines] == list(range(1, 21))


def test_accumulated_parts_are_one_batch(make: Make) -> None:
    whole = load_file(train(make("one", steps=3)) / "model.safetensors")
    parts = load_file(train(make("four", steps=3, gradient_accumulation=4)) / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_old_checkpoints_go(make: Make) -> None:
    run = train(make(steps=5, checkpoint_every=1, keep_checkpoints=2)).parent
    assert [path.name for path in checkpoint.list_checkpoints(run)] == ["checkpoint-00000004", "checkpoint-00000005"]


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_checkpoint(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Trainer._loss
    monkeypatch.setattr(
        Trainer, "_loss", lambda trainer, batch: loss(trainer, batch) * (torch.nan if trainer.step == 12 else 1)
    )
    with pytest.raises(NonFiniteLossError, match=r"nan at step 13; the last good checkpoint is .*checkpoint-00000010"):
        train(make())


def test_validation_images_change_nothing(make: Make) -> None:
    plain = train(make("plain", steps=4))
    values = make("watched", steps=4).model_dump()
    values["validation"] = {"every": 2, "prompts": ["a red circle", "a star"], "num_inference_steps": 2}
    watched = train(Config.model_validate(values))
    assert same(plain, watched)
    samples = sorted(path.name for path in (watched.parent / "samples").iterdir())
    assert samples == ["step-00000002.png", "step-00000004.png"]


def test_validation_is_of_the_averaged_weights(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    images, loss, seen = OwnModel.images, ValidationLoss.__call__, []

    def watched_images(subject: OwnModel, options: Any) -> Any:
        seen.append(subject.transformer.proj_out.weight.detach().clone())
        return images(subject, options)

    def watched_loss(measure: ValidationLoss, model: Any) -> Any:
        seen.append(model.proj_out.weight.detach().clone())
        return loss(measure, model)

    monkeypatch.setattr(OwnModel, "images", watched_images)
    monkeypatch.setattr(ValidationLoss, "__call__", watched_loss)
    values = make(steps=2).model_dump()
    values["validation"] = {"every": 2, "prompts": ["a star"], "num_inference_steps": 1}
    values["validation"] |= {"loss_every": 2, "loss_examples": 1}
    final = train(Config.model_validate(values))
    raw, averaged = (load_file(final / f"{name}.safetensors")["proj_out.weight"] for name in ("model", "ema"))
    assert not averaged.equal(raw)
    assert [weight.equal(averaged) for weight in seen] == [True, True]


def test_an_occupied_folder_is_left_alone(make: Make) -> None:
    train(make(steps=1))
    with pytest.raises(ValueError, match="already holds checkpoints"):
        train(make(steps=1))


def test_nothing_to_resume(make: Make) -> None:
    with pytest.raises(ValueError, match="no checkpoint to resume"):
        train(make(), "latest")


def test_a_batch_that_cannot_be_shared(make: Make) -> None:
    with pytest.raises(ValueError, match="batch_size 4 cannot be shared"):
        train(make(gradient_accumulation=3))


def test_a_run_starts_from_a_pipeline_s_weights(make: Make, tmp_path: Path) -> None:
    first = train(make("first", steps=2))
    export_pipeline(first, tmp_path / "pipeline", weights="raw", with_text_encoder=False)
    second = train(make("second", steps=1, initialize_from=str(tmp_path / "pipeline"), max_minutes=1e-9))
    before, after = (load_file(path / "model.safetensors") for path in (first, second))
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    other = make("third", steps=1, initialize_from=str(tmp_path / "pipeline")).model_dump()
    other["model"]["num_blocks"] = 3
    with pytest.raises(ValueError, match=r"num_blocks=2; the config says 3"):
        train(Config.model_validate(other))


def test_where_the_average_is_kept_changes_nothing(make: Make) -> None:
    beside, apart = (train(make(name, steps=2, ema_device=device)) for name, device in (("one", None), ("two", "cpu")))
    assert (beside / "ema.safetensors").read_bytes() == (apart / "ema.safetensors").read_bytes()


def test_a_lora_is_trained_resumed_and_loaded_by_a_pipeline(make: Make, tmp_path: Path) -> None:
    folder = export_pipeline(train(make("first", steps=2)), tmp_path / "pipeline")
    options: dict[str, Any] = {"lora_rank": 2, "initialize_from": str(folder), "checkpoint_every": 1}
    whole = train(make("whole", steps=3, **options))
    train(make("parts", steps=1, checkpoint_form="sharded", **options))
    parts = train(make("parts", steps=3, **options), "latest")
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in parts.iterdir()
    }
    trained = load_file(whole / "model.safetensors")
    assert trained
    assert all(".lora_" in name and "fusion" not in name for name in trained)

    pipeline = SemanticRoutingPipeline.from_pretrained(folder)
    sizes = pipeline.transformer.config
    latents, text = torch.randn(1, 3, 32, 32), torch.randn(1, sizes.num_text_layers, 3, sizes.text_channels)
    plain = pipeline.transformer(latents, torch.tensor([500.0]), text).sample
    lora = export_pipeline(whole, tmp_path / "lora", weights="raw")
    pipeline.load_lora_weights(lora, adapter_name="default")
    assert not pipeline.transformer(latents, torch.tensor([500.0]), text).sample.equal(plain)
    loaded = pipeline.transformer.state_dict()
    assert all(loaded[name].equal(value) for name, value in trained.items())

    model = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: 2 * value for name, value in load_file(model).items()}, model, {"format": "pt"})
    with pytest.raises(ValueError, match="was trained with base_weights="):
        train(make("parts", steps=4, **options), "latest")


def test_only_the_backbone_comes_from_a_pipeline_with_another_fusion(make: Make, tmp_path: Path) -> None:
    first = train(make("first", steps=2))
    export_pipeline(first, tmp_path / "pipeline", weights="raw", with_text_encoder=False)
    start: dict[str, Any] = {"initialize_from": str(tmp_path / "pipeline"), "initialize": "backbone"}
    values = make("second", steps=1, max_minutes=1e-9, **start).model_dump()
    values["model"]["strategy"] = "joint"
    before, after = (load_file(path / "model.safetensors") for path in (first, train(Config.model_validate(values))))
    backbone = [name for name in after if not name.startswith("fusion.")]
    assert all(after[name].equal(before[name]) for name in backbone)
    assert all(name.startswith("fusion.") for name in after.keys() ^ before.keys())
    values["training"]["output"] = str(tmp_path / "third")
    values["model"]["context_channels"] = 24
    with pytest.raises(
        ValueError, match=r"read text of \d+ channels; the config's read 24: set model.context_channels"
    ):
        train(Config.model_validate(values))


def test_captions_of_a_pool_are_encoded_before_the_first_step(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = make("pool", steps=2).model_dump()
    values["data"]["source"] = {"source": "scenes", "captions": 5}
    values["data"]["image_size"] = 32
    values["text"]["cache"] = str(tmp_path / "features")
    trainer = make_trainer(Config.model_validate(values))
    assert len(list((tmp_path / "features").glob("pool-*.safetensors"))) == 1
    monkeypatch.setattr(
        trainer.subject.encoder, "_read", lambda tokens: pytest.fail("a caption was encoded while training")
    )
    trainer.run()
