"""The loss of held-out examples is exact, the same however it is cut up, and changes nothing of the training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from semantic_routing.data import Batch
from semantic_routing.io.jsonl import read_lines
from semantic_routing.models.latents import LatentCodec
from semantic_routing.text import TextEncoder
from semantic_routing.training import train
from semantic_routing.training.config import Config
from semantic_routing.training.trainer import make_trainer
from semantic_routing.training.validation_loss import SIGMAS, velocity_errors

Make = Callable[..., Config]


@pytest.fixture
def make(tiny_values: dict[str, Any], tmp_path: Path) -> Make:
    def make(name: str, steps: int = 4, batch_size: int = 4, **validation: Any) -> Config:
        values = {**tiny_values, "validation": validation}
        values["training"] = {
            **values["training"],
            "output": str(tmp_path / name),
            "steps": steps,
            "batch_size": batch_size,
            "log_every": 3,
        }
        return Config.model_validate(values)

    return make


class Known(torch.nn.Module):
    """Predicts the sample that it was told, a little off."""

    def __init__(self, sample: torch.Tensor, off: float) -> None:
        super().__init__()
        self.sample = sample + off

    def forward(self, *inputs: torch.Tensor) -> "Known":
        return self


class NoText(TextEncoder):
    """Gives nothing to read."""

    def __init__(self) -> None: ...

    def __call__(self, captions: Sequence[str]) -> Any:
        return self

    def to(self, *where: Any) -> tuple[()]:
        return ()


def test_the_error_is_of_the_velocity_at_every_level() -> None:
    images = torch.rand(2, 3, 4, 4)
    batch = Batch(images, ["a", "b"], torch.tensor([1, 2]), [])
    cpu = torch.device("cpu")
    for off in (0.0, 0.5):
        errors = velocity_errors(Known(images, off), batch, NoText(), LatentCodec(), "sample", cpu, torch.float32)
        # An error d of the sample is one of d / σ of the velocity.
        expected = torch.tensor([(off / sigma) ** 2 for sigma in SIGMAS]).expand(2, -1)
        assert torch.allclose(errors, expected, atol=1e-4)


def test_it_is_logged_and_changes_nothing(make: Make) -> None:
    plain = train(make("plain"))
    measured = train(make("measured", loss_every=2, loss_examples=6))
    for name in ("model", "ema"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in (plain, measured))
        assert all(torch.equal(one[key], other[key]) for key in one)
    lines = read_lines(measured.parent / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 3, 4]
    assert ["validation_loss" in line for line in lines] == [True, False, True]
    levels = [lines[0][f"validation_loss_{sigma:g}"] for sigma in SIGMAS]
    assert lines[0]["validation_loss"] == pytest.approx(sum(levels) / len(levels))
    assert all("loss" in line for line in lines)


def test_it_is_of_the_same_examples_whatever_the_batch(make: Make) -> None:
    found = []
    for size in (2, 4):
        trainer = make_trainer(make(str(size), batch_size=size, loss_every=1, loss_examples=5))
        assert trainer.validation_loss is not None
        found.append(trainer.validation_loss(trainer.model)["validation_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    other = make_trainer(make("other", loss_every=1, loss_examples=5, seed=1))
    assert other.validation_loss is not None
    assert other.validation_loss(other.model)["validation_loss"] != pytest.approx(found[0], rel=1e-3)


def test_training_examples_are_not_held_out(make: Make, tmp_path: Path) -> None:
    from PIL import Image

    config = make("x", loss_every=1)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "set.jsonl").write_text('{"image": "a.png", "text": "a cat"}')
    values = config.model_dump(mode="json")
    values["data"]["source"] = {"source": "json", "path": str(tmp_path / "set.jsonl")}
    with pytest.raises(ValueError, match=r"all 1 examples of data\.source are trained on: name held-out ones"):
        train(Config.model_validate(values))
