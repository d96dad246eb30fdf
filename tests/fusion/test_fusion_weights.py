import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_routing.fusion import STRATEGIES, FusionStrategy, Gate, SemanticRouter
from semantic_routing.fusion.gate import TIME_CHANNELS, sinusoidal_embedding

LAYERS, BLOCKS = 5, 3
TIMES = torch.tensor([0.0, 137.0, 500.0, 1000.0])


def randomize(router: SemanticRouter, seed: int = 0, scale: float = 1.0) -> SemanticRouter:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return router


@settings(max_examples=100, deadline=None)
@given(
    strategy=st.sampled_from(list(STRATEGIES)),
    layers=st.integers(1, 9),
    blocks=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    scale=st.floats(0, 30),
    times=st.lists(st.floats(0, 1000), min_size=1, max_size=3),
)
def test_weights_are_convex(
    strategy: str, layers: int, blocks: int, seed: int, scale: float, times: list[float]
) -> None:
    router = randomize(SemanticRouter(strategy, layers, blocks), seed, scale)
    weights = router.weights(torch.tensor(times))
    assert weights.dtype == torch.float32
    assert weights.shape == (blocks if router.depends_on_depth else 1, len(times), layers)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"penultimate"}))
def test_every_strategy_starts_as_the_mean(strategy: str) -> None:
    hidden_states = torch.randn(len(TIMES), LAYERS, 6, 8, generator=torch.Generator().manual_seed(0))
    mean, router = SemanticRouter("uniform", LAYERS, BLOCKS), SemanticRouter(strategy, LAYERS, BLOCKS)
    assert (router.weights(TIMES) - 1 / LAYERS).abs().max() <= 1e-6
    expected = mean(mean.prepare(hidden_states), TIMES)
    context = router(router.prepare(hidden_states), TIMES)
    assert (context - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(("layers", "read"), [(1, 0), (2, 0), (5, 3)])
def test_penultimate_reads_one_layer(layers: int, read: int) -> None:
    weights = SemanticRouter("penultimate", layers, BLOCKS).weights(TIMES)
    assert weights.equal(torch.nn.functional.one_hot(torch.tensor(read), layers).float().expand_as(weights))
    assert STRATEGIES["penultimate"].layers_read(layers) == [read]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_depend_on_what_the_strategy_says(strategy: str) -> None:
    router = randomize(SemanticRouter(strategy, LAYERS, BLOCKS))
    weights = router.weights(TIMES)
    assert (weights != weights[:, :1]).any() == router.depends_on_time
    assert (weights != weights[:1]).any() == router.depends_on_depth


def copy_gates(target: Gate, source: Gate) -> None:
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        ours.copy_(theirs.expand_as(ours))


@torch.no_grad()
def test_each_strategy_reduces_to_the_simpler_one() -> None:
    def router(strategy: str) -> SemanticRouter:
        return randomize(SemanticRouter(strategy, LAYERS, BLOCKS))

    joint, depth, time, static, uniform = map(router, ("joint", "depth-wise", "time-wise", "static", "uniform"))

    # Gates that block d shares with all others: joint is time-wise.
    copy_gates(joint.strategy.gate, time.strategy.gate)
    torch.testing.assert_close(joint.weights(TIMES), time.weights(TIMES).expand(BLOCKS, -1, -1))
    # Gates that ignore time: joint is depth-wise, time-wise is static.
    joint.strategy.gate.weight_out.zero_()
    joint.strategy.gate.bias_out.copy_(depth.strategy.logits)
    assert joint.weights(TIMES).equal(depth.weights(TIMES))
    time.strategy.gate.weight_out.zero_()
    time.strategy.gate.bias_out.copy_(static.strategy.logits)
    assert time.weights(TIMES).equal(static.weights(TIMES))
    # Equal rows: depth-wise is static. Equal logits: static is the mean.
    depth.strategy.logits.copy_(static.strategy.logits)
    assert depth.weights(TIMES).equal(static.weights(TIMES).expand(BLOCKS, -1, -1))
    static.strategy.logits.fill_(3.0)
    assert static.weights(TIMES).equal(uniform.weights(TIMES))


def test_gate_is_the_formula_of_the_paper() -> None:
    gate = Gate(LAYERS, num_gates=2)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    sigma = torch.tensor([0.25, 0.9])
    frequencies = 10000.0 ** (-2 * torch.arange(64) / 128)
    angles = sigma[:, None] * frequencies
    phi = torch.cat([angles.cos(), angles.sin()], dim=-1)
    for index in range(2):
        hidden = phi @ gate.weight_in[index].T + gate.bias_in[index]
        expected = (hidden * hidden.sigmoid()) @ gate.weight_out[index].T + gate.bias_out[index]
        torch.testing.assert_close(gate(sigma)[index], expected, rtol=1e-4, atol=1e-4)
    assert gate.weight_in.shape == (2, 512, TIME_CHANNELS) == (2, 512, 128)


def test_the_gate_sees_sigma_and_not_the_timestep() -> None:
    router = randomize(SemanticRouter("time-wise", LAYERS, BLOCKS))
    expected = torch.softmax(router.strategy.gate(TIMES / 1000), dim=-1)
    torch.testing.assert_close(router.weights(TIMES), expected)


def test_gates_stay_in_float32_under_autocast_and_in_half_precision() -> None:
    gate = Gate(LAYERS)
    torch.nn.init.normal_(gate.weight_out, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 0.501])  # the same number in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert gate(sigma).equal(gate(sigma))
        assert gate(sigma).dtype == torch.float32
        under_autocast = gate(sigma)
    assert under_autocast.equal(gate(sigma))
    halved = gate.to(torch.bfloat16)(sigma)
    assert halved.dtype == torch.float32
    assert (halved[:, 0] != halved[:, 1]).any()
    assert sinusoidal_embedding(sigma.double(), 8).dtype == torch.float32


def test_a_new_strategy_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last(FusionStrategy):
        def forward(self, sigma: torch.Tensor) -> torch.Tensor:
            logits = torch.full((1, 1, self.num_layers), -torch.inf)
            logits[..., -1] = 0
            return logits

    monkeypatch.setitem(STRATEGIES, "last", Last)
    assert SemanticRouter("last", LAYERS, BLOCKS).weights(TIMES)[0, 0].tolist() == [0, 0, 0, 0, 1]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"'deep'.*penultimate, uniform, static, time-wise, depth-wise, joint"):
        SemanticRouter("deep", LAYERS, BLOCKS)
    with pytest.raises(ValueError, match="not 0 and 3"):
        SemanticRouter("static", 0, 3)
    with pytest.raises(ValueError, match="built for 5 layers and got 4"):
        SemanticRouter("static", 5, 3).prepare(torch.zeros(1, 4, 2, 8))
