from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.text import TextEncoder
from semantic_routing.training import train
from semantic_routing.training.config import Config, load_config
from semantic_routing.training.export import export_pipeline


@pytest.fixture
def checkpoint(make_config: Callable[..., Config], vae_folder: Path, image_folder: Path) -> Path:
    return train(
        make_config(
            model={"patch_size": 2, "prediction": "sample", "strategy": "depth-wise"},
            text={"layers": [1, 3], "instruction": "draw ", "max_length": 20},
            vae={"model": str(vae_folder)},
            data={"source": {"source": "json", "path": str(image_folder)}, "image_size": 16},
            flow={"shift": 3.0},
            training={"steps": 4},
        )
    )


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_the_pipeline_has_the_run_s_weights_and_options(checkpoint: Path, tmp_path: Path, weights: Any) -> None:
    out = export_pipeline(checkpoint.parent, tmp_path / "out", weights)
    pipeline = SemanticRoutingPipeline.from_pretrained(out)
    expected = load_file(checkpoint / ("ema.safetensors" if weights == "ema" else "model.safetensors"))
    actual = pipeline.transformer.state_dict()
    assert all(actual[name].equal(value) for name, value in expected.items())
    assert pipeline.scheduler.config.shift == 3.0
    assert pipeline.transformer.config.prediction == "sample"
    assert pipeline.prompt_encoder.layers == [1, 3]
    assert (pipeline.prompt_encoder.instruction, pipeline.prompt_encoder.max_length) == ("draw ", 20)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name")
    assert "# out\n" in card
    assert "source: json" in card
    assert load_config(str(out / "config.yaml")).data.image_size == 16
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a star", num_inference_steps=1).images[0].size == (16, 16)


def test_a_named_text_encoder_is_not_copied(checkpoint: Path, tmp_path: Path) -> None:
    out = export_pipeline(checkpoint, tmp_path / "out", with_text_encoder=False)
    assert not (out / "text_encoder").exists()
    copied = SemanticRoutingPipeline.from_pretrained(export_pipeline(checkpoint, tmp_path / "copied")).prompt_encoder
    named = SemanticRoutingPipeline.from_pretrained(out).prompt_encoder
    for encoder in (copied, named):
        assert (encoder.layers, encoder.last_layer) == ([1, 3], "raw")
        assert encoder.model.config.num_hidden_layers == 3
    torch.testing.assert_close(named(["a star"]).hidden_states, copied(["a star"]).hidden_states)


@pytest.mark.parametrize("last_layer", ["normalized", "raw"])
def test_a_text_encoder_named_by_a_relative_path_is_found_from_anywhere(
    make_config: Callable[..., Config],
    language_models: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_layer: str,
) -> None:
    folder = language_models("qwen3")
    monkeypatch.chdir(folder.parent)
    text = {"model": folder.name, "layers": 2, "last_layer": last_layer}
    checkpoint = train(make_config(text=text, training={"steps": 1}))
    out = export_pipeline(checkpoint, tmp_path / "out", with_text_encoder=False)
    monkeypatch.chdir(tmp_path)
    pipeline = SemanticRoutingPipeline.from_pretrained(out)
    assert pipeline.config.text_model == str(folder)
    assert (pipeline.config.text_layers, pipeline.config.last_layer) == ([3, 4], last_layer)
    expected = TextEncoder.load(str(folder), layers=[3, 4], last_layer=last_layer)(["a star"]).hidden_states
    torch.testing.assert_close(pipeline.prompt_encoder(["a star"]).hidden_states, expected)


def test_bfloat16_halves_the_weights_and_spares_the_router(checkpoint: Path, tmp_path: Path) -> None:
    out = export_pipeline(checkpoint, tmp_path / "out", dtype="bfloat16")
    saved = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for name, value in saved.items() if name.startswith("fusion.")} == {torch.float32}
    assert {value.dtype for name, value in saved.items() if not name.startswith("fusion.")} == {torch.bfloat16}


def test_an_interrupted_export_never_looks_complete(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = SemanticRoutingPipeline.save_pretrained

    def interrupted(self: Any, folder: Any, **options: Any) -> None:
        save(self, folder, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(SemanticRoutingPipeline, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_pipeline(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert export_pipeline(checkpoint, tmp_path / "out").is_dir()
    assert not (tmp_path / "out.partial").exists()
