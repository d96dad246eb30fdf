"""What holds of every host in the table."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_hosts import LENGTH, MAKERS, PROMPTS, TinyHost, first, make_host
from torch import Tensor, nn

from semantic_routing.adapters import (
    HOSTS,
    add_routing,
    find_routing,
    remove_routing,
    save_routing,
    set_routing_scale,
)


def train(host: TinyHost, steps: int = 20) -> list[float]:
    """Fits the host's output to another, by the routing's parameters alone; returns the losses."""
    inputs = host.inputs()
    target = first(host.model(**inputs, return_dict=False)).detach().roll(1, 0)
    optimizer = torch.optim.AdamW(find_routing(host.pipe).parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        loss = (first(host.model(**inputs, return_dict=False)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_every_row_of_the_table_is_tried() -> None:
    assert {host.pipelines[0] if host.pipelines[0] in MAKERS else host.pipelines[-1] for host in HOSTS} == set(MAKERS)


def test_a_fresh_routing_changes_no_bit_and_learns_alone(host: TinyHost) -> None:
    untouched, before = host.run(), weights(host.model)
    add_routing(host.pipe, "depth-wise")
    assert host.run().equal(untouched)
    losses = train(host)
    assert losses[-1] < losses[0]
    assert not host.run().equal(untouched)
    routing = find_routing(host.pipe)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in routing.parameters())
    assert (routing.gain != 0).all()  # every block takes part
    after = weights(host.model)
    assert before.keys() == after.keys()  # nothing of the routing is in what `save_pretrained` writes
    assert all(before[name].equal(after[name]) for name in before)
    set_routing_scale(host.pipe, 0.0)
    assert host.run().equal(untouched)
    set_routing_scale(host.pipe, 0.5)
    assert not host.run().equal(untouched)
    remove_routing(host.pipe)
    assert host.run().equal(untouched)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.model.modules())


def test_padding_stays_the_host_s_own(host: TinyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host's text is no text, nothing is added; everywhere else something is."""
    add_routing(host.pipe)
    routing, shown = find_routing(host.pipe), []
    nn.init.constant_(routing.gain, 0.5)
    monkeypatch.setattr(routing, "show", lambda residuals: shown.append(residuals))
    host.run()
    residual, inputs = shown[1][0], host.inputs()
    mask = inputs.get(routing.host.mask, inputs[routing.host.entry].any(-1)).bool()[:, : residual.shape[1]]
    if type(host.pipe).__name__ == "StableDiffusion3Pipeline":
        mask[:, :LENGTH] = False  # CLIP's tokens, of which T5 has no layers
    assert (residual != 0).any(-1).equal(mask)


def test_gradient_checkpointing_gives_the_same_gradients(host: TinyHost) -> None:
    if not host.model._supports_gradient_checkpointing:
        pytest.skip(f"{type(host.model).__name__} has none")
    add_routing(host.pipe, "joint")
    routing = find_routing(host.pipe)
    torch.manual_seed(0)
    for parameter in routing.parameters():
        nn.init.normal_(parameter, std=0.3)
    host.model.train()
    one, other = host.inputs(PROMPTS), host.inputs(PROMPTS[::-1])
    for inputs in (one, other):
        inputs.pop("attention_mask", None)  # diffusers 0.42.1 forgets it in Chroma's single blocks when checkpointing

    def gradients() -> list[Tensor]:
        routing.zero_grad()
        # Two texts before one backward pass: each must see its own again.
        outputs = [first(host.model(**inputs, return_dict=False)).square().mean() for inputs in (one, other)]
        (outputs[0] + 3 * outputs[1]).backward()
        return [parameter.grad.clone() for parameter in routing.parameters() if parameter.grad is not None]

    plain = gradients()
    host.model.enable_gradient_checkpointing()
    for left, right in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_saved_and_loaded_in_a_new_process(tmp_path: Path) -> None:
    for name in MAKERS:
        host = make_host(name)
        add_routing(host.pipe, "depth-wise", layers=[0, 2, 3])
        train(host, steps=2)
        save_routing(host.pipe, tmp_path / name)
        torch.save(host.run(), tmp_path / name / "output.pt")
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"  # as here: sums of several threads have other last bits
        "sys.path[:0] = sys.argv[2:]\n"
        "from tiny_hosts import MAKERS, make_host\n"
        "from semantic_routing.adapters import load_routing\n"
        "for name in MAKERS:\n"
        "    host, folder = make_host(name), f'{sys.argv[1]}/{name}'\n"
        "    assert load_routing(host.pipe, folder) is host.pipe\n"
        "    assert host.run().equal(torch.load(f'{folder}/output.pt')), name\n"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(here), str(here.parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_copy_is_routed_and_can_be_rid_of_it(host: TinyHost) -> None:
    untouched = host.run()
    add_routing(host.pipe)
    nn.init.constant_(find_routing(host.pipe).gain, 0.5)
    inputs = host.inputs()
    routed = first(host.model(**inputs, return_dict=False))
    twin = copy.deepcopy(host.model)
    assert first(twin(**inputs, return_dict=False)).equal(routed)
    nn.init.zeros_(find_routing(twin).gain)
    assert first(twin(**inputs, return_dict=False)).equal(untouched)
    assert first(host.model(**inputs, return_dict=False)).equal(routed)
