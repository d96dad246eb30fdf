"""The example that tells whether order is said by a language model, and heard by a diffusion model."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from semantic_routing.scenes import sample_scene

EXAMPLE = Path(__file__).parents[2] / "examples" / "word_order.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def test_an_exchanged_caption_names_the_anchor_first_with_the_articles_that_fit(example: dict[str, Any]) -> None:
    for index in range(200):
        sample = sample_scene(0, index, skills=["position", "spatial_relation"])
        first = example["relation_of"](sample)
        exchanged = example["exchanged"](sample)
        assert exchanged.index(str(first.anchor.shape)) < exchanged.index(str(first.subject.shape))
        for kind in (first.subject, first.anchor):
            assert f"{kind.color or ''} {kind.shape}" in exchanged
        for word in ("a", "an"):
            followers = f" {exchanged}".split(f" {word} ")[1:]
            assert all((rest[0] in "aeiou") == (word == "an") for rest in followers)


def test_a_probe_reads_what_is_there_and_nothing_else(example: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (800,), generator=generator)
    noise = torch.randn(800, 8, generator=generator)
    directions = torch.randn(4, 8, generator=generator)
    assert example["probe"](noise + 6 * directions[labels], labels) > 0.95
    assert example["probe"](noise, labels) < 0.4


def test_both_commands_run(example: dict[str, Any]) -> None:
    runner = CliRunner()
    said = runner.invoke(example["app"], ["said", "--count", "8"])
    assert said.exit_code == 0, said.output
    assert [line.split()[0] for line in said.output.splitlines()] == ["layer"] * 7 + ["mean"]
    heard = runner.invoke(example["app"], ["heard", "--count", "2"])
    assert heard.exit_code == 0, heard.output
    lines = [line.split() for line in heard.stdout.splitlines() if "exchanged" in line]
    assert len(lines) == 8
    assert all(float(line[4]) > 0 for line in lines)
