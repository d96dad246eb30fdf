"""The reference's side of the comparison, with a stand-in for its code: our baseline, which repeats all text work."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.against_reference import Reference, load_class, measure
from benchmarks.models import Sizes, language_model_config

STAND_IN = """
from torch import nn

from benchmarks.baseline import ReferenceWay
from semantic_routing.interop.constants import describe
from semantic_routing.interop.layout import from_reference


class Config:
    def __init__(self, **entries):
        self.entries = entries


class Model(nn.Module):
    turned = False

    def __init__(self, config):
        super().__init__()
        description = describe(config.entries, [])
        self.way = ReferenceWay(description.transformer_class(**description.options))

    def load_state_dict(self, tensors):
        self.way.transformer.load_state_dict(from_reference(tensors, self.way.transformer))

    def forward(self, x, t, states, mask):
        states = states.flip(0) if self.turned else states
        return self.way(x, t, states.transpose(0, 1), mask.bool()).sample


class Turned(Model):
    turned = True
"""
SIZES = Sizes(width=256, blocks=1, text_layers=3, latent_size=4)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", ["."])
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    return tmp_path


def compare(checkout: Path, model: str, inputs: dict[str, str] | None) -> Any:
    classes = (load_class(checkout, f"stand_in:{name}") for name in (model, "Config"))
    reference = (*classes, language_model_config(SIZES).to_dict(), {}, inputs)
    return measure(SIZES, lambda ours: Reference(ours, *reference), 3, 2, 1, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("inputs", [None, {"x": "latents", "t": "timestep", "states": "text", "mask": "mask"}])
def test_both_sides_are_timed_where_they_predict_the_same(checkout: Path, inputs: dict[str, str] | None) -> None:
    report = compare(checkout, "Model", inputs)
    assert [len(seconds) for seconds in report.seconds.values()] == [1, 1, 1]
    assert report.rows[0].measured[0] > 0


def test_what_does_not_predict_the_same_is_not_timed(checkout: Path) -> None:
    with pytest.raises(RuntimeError, match="not the same"):
        compare(checkout, "Turned", None)


def test_a_name_that_is_not_there_is_told(checkout: Path) -> None:
    with pytest.raises(ValueError, match="has no 'stand_in:Missing'"):
        load_class(checkout, "stand_in:Missing")
    with pytest.raises(ValueError, match="'colour': expected one of latents"):
        compare(checkout, "Model", {"x": "colour"})
