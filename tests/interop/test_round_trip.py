"""There and back is bit-identical, from every container; nothing is dropped, and mistakes get one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from reference import CONDITIONINGS, FLAGS, make_config, make_weights, model_class
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from semantic_routing.cli import app
from semantic_routing.interop import convert, convert_to_reference
from semantic_routing.interop.constants import _hidden_state_index
from semantic_routing.models import SemanticRoutingTransformer2DModel

Weights = dict[str, Tensor]


def image_side(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("llm.")}


def identical(seen: Weights, wanted: Weights) -> bool:
    return seen.keys() == wanted.keys() and all(
        seen[name].dtype == wanted[name].dtype and torch.equal(seen[name], wanted[name]) for name in wanted
    )


def there_and_back(source: Path, tmp_path: Path) -> Weights:
    convert(source, tmp_path / "ours", transformer_only=True)
    convert_to_reference(tmp_path / "ours", tmp_path / "back", transformer_only=True)
    return load_file(tmp_path / "back" / "model.safetensors")


def checkpoint(tmp_path: Path, config: dict[str, Any], weights: Weights) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("variant", FLAGS)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("sandwich", [False, True])
def test_bit_identical(tmp_path: Path, variant: str, conditioning: str | None, sandwich: bool) -> None:
    config = make_config(variant, conditioning, sandwich_norm=sandwich)
    weights = make_weights(config)
    weights |= {name: tensor.bfloat16() for name, tensor in weights.items() if "mlp" in name}
    folder = checkpoint(tmp_path, config, weights)
    assert identical(there_and_back(folder, tmp_path), image_side(weights))
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config


@pytest.mark.parametrize("variant", FLAGS)
def test_a_model_of_ours_comes_back_from_there(tmp_path: Path, variant: str) -> None:
    """Without any word of the reference's own configuration: it is made from ours and read again."""
    config = make_config(variant, "adaln-zero")
    checkpoint(tmp_path, config, make_weights(config))
    convert(tmp_path / "theirs", tmp_path / "ours", transformer_only=True)
    (tmp_path / "ours" / "reference.json").unlink()
    convert_to_reference(tmp_path / "ours", tmp_path / "back", transformer_only=True)
    convert(tmp_path / "back", tmp_path / "again", transformer_only=True)
    ours, again = (model_class(variant).from_pretrained(tmp_path / name) for name in ("ours", "again"))
    differing = {key for key, value in ours.config.items() if again.config[key] != value} - {"_name_or_path"}
    assert not differing
    assert identical(again.state_dict(), ours.state_dict())


def _prefixed(weights: Weights) -> Weights:
    return {f"module._orig_mod.module.{name}": tensor for name, tensor in weights.items()}


CONTAINERS = {
    "ema.pt": ("ema.pt", lambda weights: weights),
    "prefixes": ("ema.pt", _prefixed),
    "shadow_params": ("ema.pt", lambda weights: {"shadow_params": weights, "decay": 0.99}),
    "state_dict": ("pytorch_model.bin", lambda weights: {"state_dict": {"module": weights}}),
    "deepspeed": ("pytorch_model/mp_rank_00_model_states.pt", lambda weights: {"module": weights, "global_steps": 3}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(tmp_path: Path, container: str) -> None:
    config = make_config("time-wise")
    weights = make_weights(config)
    name, wrap = CONTAINERS[container]
    file = tmp_path / "checkpoint-10" / name
    file.parent.mkdir(parents=True)
    (tmp_path / "checkpoint-10" / "config.json").write_text(json.dumps(config))
    torch.save(wrap(weights), file)
    assert identical(there_and_back(tmp_path / "checkpoint-10", tmp_path), weights)
    convert(file, tmp_path / "from-the-file", transformer_only=True)


def test_shards(tmp_path: Path) -> None:
    config = make_config("joint")
    weights = make_weights(config)
    names = sorted(weights)
    folder = tmp_path / "exported" / "transformer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    parts = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / part)
    index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert identical(there_and_back(tmp_path / "exported", tmp_path), weights)


def test_average_or_raw(tmp_path: Path) -> None:
    config = make_config("uniform")
    averaged, raw = make_weights(config, seed=1), make_weights(config, seed=2)
    folder = checkpoint(tmp_path, config, raw)
    torch.save(averaged, folder / "ema.pt")
    for weights, wanted in (("ema", averaged), ("raw", raw), (None, averaged)):
        convert(folder, tmp_path / str(weights), transformer_only=True, weights=weights)  # type: ignore[arg-type]
        model = SemanticRoutingTransformer2DModel.from_pretrained(tmp_path / str(weights))
        assert torch.equal(model.proj_out.weight, wanted["proj_out.weight"])


class Surprise:
    def __reduce__(self) -> Any:
        return (print, ("code in a checkpoint was run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(make_config("static")))
    torch.save({"module": Surprise()}, folder / "ema.pt")
    with pytest.raises(ValueError, match="holds more than tensors"):
        convert(folder, tmp_path / "ours", transformer_only=True)
    assert "was run" not in capsys.readouterr().out


def _without(name: str) -> Any:
    return lambda config, weights: weights.pop(name)


def _with(name: str) -> Any:
    return lambda config, weights: weights.update({name: torch.zeros(3)})


def _configured(**changes: Any) -> Any:
    return lambda config, weights: config.update(changes)


MISTAKES = {
    "missing tensor": (_without("layers.2.mlp.up_proj.weight"), "lacks 'layers.2.mlp.up_proj.weight'"),
    "missing gate": (_without("text_fusion_modules.1.weight_generator.2.bias"), "lacks 'text_fusion_modules.1.weight"),
    "unknown tensor": (_with("condition_embedder.0.weight"), "'condition_embedder.0.weight' has no place"),
    "deeper than said": (_configured(dit_num_hidden_layers=2), "'layers.2.*' has no place"),
    "narrower than said": (_configured(dit_hidden_size=32), r"has shape \(36,.*calls for \(32,"),
    "other strategy": (_configured(use_layer_wise_fusion=False), "lacks 'text_fusion_module.weight_generator.0"),
    "no width": (_configured(dit_hidden_size=None), "has no 'dit_hidden_size'"),
    "no base_config": (_configured(base_config=None), "has no 'base_config'"),
    "unknown class": (_configured(architectures=["UNet"]), "architecture is 'UNet': expected one of DiT"),
    "self-attention": (_configured(attention="self"), "attention 'self', which our models do not do"),
    "other positions": (_configured(pos_embed="m-rope"), "pos_embed 'm-rope'"),
    "unnormalized queries": (_configured(qk_norm=False), "qk_norm false"),
    "other conditioning": (_configured(timestep_conditioning="film"), "'film': expected one of none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_and_leave_nothing_behind(tmp_path: Path, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    config = make_config("joint")
    weights = make_weights(config)
    change(config, weights)
    folder = checkpoint(tmp_path, config, weights)
    with pytest.raises(ValueError, match=message) as error:
        convert(folder, tmp_path / "ours", transformer_only=True)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


@pytest.mark.parametrize("name", ["model.safetensors", "ema.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_truncated(tmp_path: Path, name: str, kept: float) -> None:
    config = make_config("static")
    weights = make_weights(config)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / name
    save_file(weights, file) if name.endswith("safetensors") else torch.save(weights, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"truncated or damaged|is damaged") as error:
        convert(folder, tmp_path / "ours", transformer_only=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("layers", "index"), [(None, -2), ([0], -6), ([4], -2), ([5], -1)])
def test_a_single_layer_is_counted_from_the_last(layers: list[int] | None, index: int) -> None:
    """Of five layers and the embeddings before them."""
    assert _hidden_state_index(FrozenDict(num_text_layers=1), {"num_hidden_layers": 5}, layers) == index


def test_a_deep_fusion_that_skips_layers_is_refused(tmp_path: Path) -> None:
    config = make_config("fusedit", shared_attention_layers=[0, 1, 3])
    folder = checkpoint(tmp_path, config, make_weights(config))
    with pytest.raises(ValueError, match="must hold all paired layers, 1 to 3"):
        convert(folder, tmp_path / "ours", transformer_only=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rope_base": 1e4}, r"rope_base is 10000\.0, there it is 100000\.0"),
        ({"position_embedding": "rope+sincos"}, r"position_embedding is rope\+sincos, there it is rope or sincos"),
    ],
)
def test_what_the_reference_cannot_hold_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    sizes = {"num_text_layers": 3, "text_channels": 16, "num_blocks": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "attention_head_dim": 8, "hidden_size": 16, "in_channels": 3}
    model = SemanticRoutingTransformer2DModel(strategy="static", **{"rope_base": 1e5, **sizes, **options})
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=f"AdaFuseDiT cannot hold this model: {sentence}"):
        convert_to_reference(tmp_path / "ours", tmp_path / "back", transformer_only=True)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["convert", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return str(result.output)


def test_the_command(tmp_path: Path) -> None:
    config = make_config("depth-wise", "adaln-single")
    weights = make_weights(config)
    folder = checkpoint(tmp_path, config, weights)
    output = run(str(folder), str(tmp_path / "ours"), "--transformer-only", "--shift", "6", "--instruction", "Look: ")
    assert "strategy: depth-wise" in output
    assert "rope_base: 100000.0" in output
    record = json.loads((tmp_path / "ours" / "reference.json").read_text())
    assert (record["scheduler_shift"], record["instruction"], record["max_length"]) == (6.0, "Look: ", 512)
    run(str(tmp_path / "ours"), str(tmp_path / "back"), "--to-reference", "--transformer-only")
    assert identical(load_file(tmp_path / "back" / "model.safetensors"), weights)


def test_a_whole_pipeline_needs_its_parts(tmp_path: Path) -> None:
    config = make_config("depth-wise")
    folder = checkpoint(tmp_path, config, make_weights(config))
    with pytest.raises(ValueError, match="comes without the autoencoder: name it with --vae"):
        convert(folder, tmp_path / "ours")
    for path, message in ((tmp_path / "nowhere", "There is no checkpoint"), (tmp_path, "holds no weights")):
        with pytest.raises((ValueError, OSError), match=message):
            convert(path, tmp_path / "ours", transformer_only=True)
    with pytest.raises(ValueError, match="exists already"):
        convert(folder, folder, transformer_only=True)
