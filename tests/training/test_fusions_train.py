"""Every fusion is a name in a config: dry run, training, resuming, export, freezing."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from semantic_routing.fusion import FUSIONS
from semantic_routing.io.jsonl import read_lines
from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.training import train
from semantic_routing.training.config import Config, load_config
from semantic_routing.training.dry_run import describe
from semantic_routing.training.export import export_pipeline

STRATEGIES = [name for name in FUSIONS if not name.startswith("test-")]
SMALL = ["model.num_blocks=2", "model.hidden_size=32", "model.attention_head_dim=16", "text.max_length=8"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_dry_run_counts_the_fusion(strategy: str) -> None:
    text = describe(load_config("scenes/depth-wise", [f"model.strategy={strategy}", *SMALL]))
    assert f"strategy: {strategy}" in text
    flops = text.partition("FLOPs of a training image")[2]
    assert ("  fusion " in flops) == (strategy != "concat")  # which only moves numbers


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_few_steps_move_all_of_the_fusion_which_resumes_and_is_exported(
    make_config: Callable[..., Config], strategy: str, tmp_path: Path
) -> None:
    changes = {"model": {"strategy": strategy}, "optimizer": {"warmup_steps": 0}}
    # The output layer starts at zero, and much of a fusion too: gradients need some steps to reach everything.
    config = make_config(training={"steps": 5, "checkpoint_every": 1}, **changes)
    run = train(config).parent
    before, last = (load_file(run / f"checkpoint-{step:08d}" / "model.safetensors") for step in (4, 5))
    assert [name for name in last if name.startswith("fusion.") and before[name].equal(last[name])] == []
    assert all(torch.isfinite(tensor).all() for tensor in last.values())

    whole = contents(run / "checkpoint-00000005")
    shutil.rmtree(run / "checkpoint-00000005")  # what a kill after step 4 leaves
    assert contents(train(config, "latest")) == whole

    pipeline = SemanticRoutingPipeline.from_pretrained(export_pipeline(run, tmp_path / "exported"))
    pipeline.set_progress_bar_config(disable=True)
    average = load_file(run / "checkpoint-00000005" / "ema.safetensors")
    assert pipeline.transformer.config.strategy == strategy
    assert all(pipeline.transformer.state_dict()[name].equal(tensor) for name, tensor in average.items())
    assert pipeline("a star", num_inference_steps=2, guidance_scale=2.0).images[0].size == (32, 32)


def contents(checkpoint: Path) -> dict[str, bytes]:
    """The tensor files of a checkpoint, byte for byte."""
    return {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}


def test_a_frozen_fusion_stays_and_the_rest_goes_on(make_config: Callable[..., Config]) -> None:
    training = {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 4, "freeze_fusion_after": 0.5}
    optimizer = {"warmup_steps": 0, "schedule": "constant"}
    run = train(make_config(model={"strategy": "signed"}, training=training, optimizer=optimizer)).parent
    weights = [load_file(path / "model.safetensors") for path in sorted(run.glob("checkpoint-*"))]
    same = [{name for name in now if now[name].equal(after[name])} for now, after in pairwise(weights)]
    fusion = {name for name in weights[0] if name.startswith("fusion.")}
    assert [fusion <= unmoved for unmoved in same] == [False, True, True]
    assert "proj_out.weight" not in set.union(*same)
    travel = [line["fusion_travel"] for line in read_lines(run / "metrics.jsonl")]
    assert travel[0] < travel[1] == travel[2] == travel[3]


def test_there_must_be_a_fusion_to_freeze(tiny_values: dict[str, Any]) -> None:
    model = {name: value for name, value in tiny_values["model"].items() if name != "strategy"} | {"kind": "fusedit"}
    training = tiny_values["training"] | {"freeze_fusion_after": 0.5}
    with pytest.raises(ValueError, match=r"freeze_fusion_after is 0\.5, but a model of kind fusedit has no fusion"):
        Config.model_validate({**tiny_values, "model": model, "training": training})
