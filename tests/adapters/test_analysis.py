"""Analyses of a host with a fusion in it: what they see is what the host does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import normal
from tiny_hosts import TinyHost, with_vae
from torch import nn
from typer.testing import CliRunner

from semantic_routing.adapters import add_routing, find_routing, save_routing, set_layer_gains
from semantic_routing.adapters.attach import fewer_layers
from semantic_routing.analysis.attention import host_attention_weights
from semantic_routing.analysis.base import choose
from semantic_routing.analysis.host import RoutedHost
from semantic_routing.analysis.knob import Knob
from semantic_routing.analysis.model import AnalysisOptions
from semantic_routing.analysis.prompt import Prompt
from semantic_routing.analysis.usage import Usage
from semantic_routing.cli import app

CALL = {"max_sequence_length": 10, "clean_caption": False}
PROMPTS = ("a red circle", "two blue squares")
CROSS = ["PixArtSigmaPipeline", "SanaPipeline", "StableDiffusionPipeline", "WanPipeline", "LTXPipeline"]


def saved(folder: Path, fusion: str = "depth-wise") -> tuple[str, Path]:
    """Folders of a tiny PixArt and of a fusion in it that does something."""
    pipe = with_vae("PixArtSigmaPipeline")
    pipe.save_pretrained(folder / "host")
    add_routing(pipe, fusion)
    torch.manual_seed(1)
    for parameter in find_routing(pipe).parameters():
        parameter.data = torch.randn_like(parameter)
    return str(folder / "host"), save_routing(pipe, folder / "routing")


def opened(folder: Path, fusion: str = "depth-wise") -> RoutedHost:
    options = AnalysisOptions(prompts=PROMPTS, steps=2, guidance=2.0)
    return RoutedHost(*saved(folder, fusion), options, 16, CALL)


@pytest.mark.parametrize("name", CROSS)
def test_attention_weights_give_the_modules_output(make: Callable[[str], TinyHost], name: str) -> None:
    from semantic_routing.adapters.hosts import find_host

    module = find_host(make(name).model).text_blocks(make(name).model)[0]
    x, text = normal(2, 5, module.to_q.in_features, seed=0), normal(2, 4, module.to_k.in_features, seed=1)
    # The same value in all channels of all heads, and nothing after the heads: means are all that matters.
    module.to_v.weight.data[:] = module.to_v.weight.data[:1]
    module.to_v.bias = None
    module.to_out = nn.ModuleList([nn.Identity(), nn.Identity()])
    with torch.no_grad():
        wanted = module(x, text).mean((1, 2))
        weights = host_attention_weights(module, x, text)
    torch.testing.assert_close((weights * module.to_v(text)[..., 0]).sum(1), wanted, atol=1e-5, rtol=1e-4)


def test_the_prompt_is_attended_to_by_its_own_tokens(tmp_path: Path) -> None:
    arrays = Prompt().compute(model := opened(tmp_path, "token-wise"))
    attention = arrays["attention"]
    assert [str(token).split()[1] for token in attention.axes["token"]] == ["a", "red", "circle"]
    np.testing.assert_allclose(attention.values.sum(-1), 1, atol=1e-5)
    times = attention.numbers("flow_time")
    assert (np.diff(times) > 0).all()
    assert len(times) == model.steps
    np.testing.assert_allclose(arrays["weights_by_token"].values.sum(-1), 1, atol=1e-5)


def test_usage_loses_nothing_with_all_layers(tmp_path: Path) -> None:
    model = opened(tmp_path)
    arrays = Usage().compute(model)
    changes = arrays["context_change"].at(statistic="largest")
    assert changes[-1] == pytest.approx(0, abs=1e-6)
    assert changes[0] > 0
    fewer = model.samples_of_layers([0])
    assert (fewer != model.samples(2.0)).any()
    with fewer_layers(model.run.pipe, range(len(model.layers))):
        again = model.run.sample(model.prompts, model.noise, 2, 2.0)
    torch.testing.assert_close(again, model.samples(2.0))


def test_gains_of_layers_move_images_and_leave_with_the_call(tmp_path: Path) -> None:
    model = opened(tmp_path)
    base = model.samples(2.0)
    assert (Knob().compute(model)["moved"].values > 0).any()
    again = model.run.sample(model.prompts, model.noise, 2, 2.0)
    assert (again == base).all()
    set_layer_gains(model.run.pipe, dict.fromkeys(model.layers, 1.0))
    torch.testing.assert_close(model.run.sample(model.prompts, model.noise, 2, 2.0), base)
    with pytest.raises(ValueError, match="Layer 77 has a gain but is not read"):
        set_layer_gains(model.run.pipe, {77: 0.0})


def test_what_needs_our_own_pipeline_says_so(tmp_path: Path) -> None:
    model = opened(tmp_path)
    chosen, left_out = choose((), model)
    assert {"usage", "prompt", "knob", "weights"} <= set(chosen)
    assert any("trajectory needs a pipeline of ours" in sentence for sentence in left_out)
    with pytest.raises(ValueError, match="overhead needs a pipeline of ours"):
        choose(["overhead"], model)


def test_the_command_draws_a_page(tmp_path: Path) -> None:
    host, routing = saved(tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    sizes = ["--host-size", "16", "--host-options", "{max_sequence_length: 10, clean_caption: false}"]
    command = ["analyze", host, str(tmp_path / "out"), "--routing", str(routing), *sizes, "--steps", "2"]
    names = ["weights", "usage", "prompt", "knob"]
    result = CliRunner().invoke(app, [*command, "--prompts", str(prompts), *(f"--only={name}" for name in names)])
    assert result.exit_code == 0, result.output
    for name in names:
        assert list((tmp_path / "out" / name).glob("*.png")), name
