import pytest
import torch
from example_fusions import SIZES, make
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semantic_routing.fusion import FUSIONS, PAPER_STRATEGIES, SemanticRouter
from semantic_routing.fusion.gate import TIME_CHANNELS, Gate, sinusoidal_embedding

LAYERS, BLOCKS = SIZES["num_layers"], SIZES["num_blocks"]
TIMES = torch.tensor([0.0, 137.0, 500.0, 1000.0])


def weights_of(router: SemanticRouter, times: Tensor = TIMES) -> Tensor:
    """`blocks #batch layers` of a fusion that does not vary by token."""
    weights = router.layer_weights(times)
    assert weights is not None
    assert weights.shape[2] == 1
    return weights[:, :, 0]


@settings(max_examples=100, deadline=None)
@given(
    strategy=st.sampled_from(PAPER_STRATEGIES),
    layers=st.integers(1, 9),
    blocks=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    scale=st.floats(0, 30),
    times=st.lists(st.floats(0, 1000), min_size=1, max_size=3),
)
def test_weights_are_convex(
    strategy: str, layers: int, blocks: int, seed: int, scale: float, times: list[float]
) -> None:
    router = make(strategy, seed, scale, num_layers=layers, num_blocks=blocks)
    weights = weights_of(router, torch.tensor(times))
    varies = router.fusion.varies_with
    assert weights.dtype == torch.float32
    assert weights.shape == (blocks if "block" in varies else 1, len(times) if "timestep" in varies else 1, layers)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("strategy", sorted({*PAPER_STRATEGIES, "test-by-token"} - {"penultimate"}))
def test_every_strategy_starts_as_the_mean(strategy: str) -> None:
    hidden_states = torch.randn(len(TIMES), LAYERS, 6, 8, generator=torch.Generator().manual_seed(0))
    mean, router = SemanticRouter("uniform", **SIZES), SemanticRouter(strategy, **SIZES)
    expected = mean(mean.prepare(hidden_states), TIMES)
    context = router(router.prepare(hidden_states), TIMES)
    assert (context - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(("layers", "read"), [(1, 0), (2, 0), (5, 3)])
def test_penultimate_reads_one_layer(layers: int, read: int) -> None:
    weights = weights_of(SemanticRouter("penultimate", layers, BLOCKS))
    assert weights.equal(torch.nn.functional.one_hot(torch.tensor(read), layers).float().expand_as(weights))
    assert FUSIONS["penultimate"].layers_read(layers, BLOCKS) == [read]


@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_weights_vary_with_what_the_strategy_says(strategy: str) -> None:
    router = make(strategy)
    weights = weights_of(router)
    assert bool((weights != weights[:, :1]).any()) == ("timestep" in router.fusion.varies_with)
    assert bool((weights != weights[:1]).any()) == ("block" in router.fusion.varies_with)


def copy_gates(target: Gate, source: Gate) -> None:
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        ours.copy_(theirs.expand_as(ours))


@torch.no_grad()
def test_each_strategy_reduces_to_the_simpler_one() -> None:
    joint, depth, time, static, uniform = map(make, ("joint", "depth-wise", "time-wise", "static", "uniform"))

    # Gates that block d shares with all others: joint is time-wise.
    copy_gates(joint.fusion.gate, time.fusion.gate)
    torch.testing.assert_close(weights_of(joint), weights_of(time).expand(BLOCKS, -1, -1))
    # Gates that ignore time: joint is depth-wise, time-wise is static.
    joint.fusion.gate.weight_out.zero_()
    joint.fusion.gate.bias_out.copy_(depth.fusion.beta)
    assert weights_of(joint).equal(weights_of(depth).expand(-1, len(TIMES), -1))
    time.fusion.gate.weight_out.zero_()
    time.fusion.gate.bias_out.copy_(static.fusion.beta)
    assert weights_of(time).equal(weights_of(static).expand(-1, len(TIMES), -1))
    # Equal rows: depth-wise is static. Equal logits: static is the mean.
    depth.fusion.beta.copy_(static.fusion.beta)
    assert weights_of(depth).equal(weights_of(static).expand(BLOCKS, -1, -1))
    static.fusion.beta.fill_(3.0)
    assert weights_of(static).equal(weights_of(uniform))


@pytest.mark.parametrize("time_channels", [128, 32])
def test_gate_is_the_formula_of_the_paper(time_channels: int) -> None:
    gate = Gate(LAYERS, num_gates=2, time_channels=time_channels)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    sigma = torch.tensor([0.25, 0.9])
    frequencies = 10000.0 ** (-2 * torch.arange(time_channels // 2) / time_channels)
    angles = sigma[:, None] * frequencies
    phi = torch.cat([angles.cos(), angles.sin()], dim=-1)
    for index in range(2):
        hidden = phi @ gate.weight_in[index].T + gate.bias_in[index]
        expected = (hidden * hidden.sigmoid()) @ gate.weight_out[index].T + gate.bias_out[index]
        torch.testing.assert_close(gate(sigma)[index], expected, rtol=1e-4, atol=1e-4)
    assert gate.weight_in.shape == (2, 4 * time_channels, time_channels)
    assert TIME_CHANNELS == 128


def test_the_gate_sees_sigma_and_not_the_timestep() -> None:
    router = make("time-wise")
    expected = torch.softmax(router.fusion.gate(TIMES / 1000), dim=-1)
    torch.testing.assert_close(weights_of(router), expected)


def test_gates_stay_in_float32_under_autocast_and_in_half_precision() -> None:
    gate = Gate(LAYERS)
    torch.nn.init.normal_(gate.weight_out, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 0.501])  # the same number in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert gate(sigma).dtype == torch.float32
        under_autocast = gate(sigma)
    assert under_autocast.equal(gate(sigma))
    halved = gate.to(torch.bfloat16)(sigma)
    assert halved.dtype == torch.float32
    assert (halved[:, 0] != halved[:, 1]).any()
    assert sinusoidal_embedding(sigma.double(), 8).dtype == torch.float32


@pytest.mark.parametrize("strategy", [name for name in PAPER_STRATEGIES if name != "penultimate"])
def test_fewer_layers_renormalize_the_weights(strategy: str) -> None:
    router, kept = make(strategy, scale=0.1), [0, 2, 3]
    small = router.fusion.keep_layers(kept)
    whole = weights_of(router)[..., kept]
    router.fusion = small
    torch.testing.assert_close(weights_of(router), whole / whole.sum(-1, keepdim=True))
    assert small.sizes.num_layers == 3


def test_a_fusion_that_cannot_drop_layers_says_so() -> None:
    from semantic_routing.fusion import FusionSizes, TextFusion

    with pytest.raises(ValueError, match="TextFusion cannot drop layers"):
        TextFusion(FusionSizes(3, 2)).keep_layers([0])
