import pytest
import torch

from semantic_routing.fusion.gate import sinusoidal_embedding
from semantic_routing.models.timestep import (
    BLOCK_PARTS,
    OUTPUT_PARTS,
    TIMESTEP_CONDITIONINGS,
    LinearModulation,
    Modulation,
    TableModulation,
)

CHANNELS = 8
TIMES = torch.tensor([0.0, 500.0, 1000.0])
X = torch.randn(3, 5, CHANNELS, generator=torch.Generator().manual_seed(0))


def signal(name: str) -> tuple[torch.nn.Module, object]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conditioning = TIMESTEP_CONDITIONINGS[name](CHANNELS)
    return conditioning, conditioning(TIMES, torch.float32)


def test_which_parts_of_the_network_a_conditioning_reaches() -> None:
    reached = {
        name: tuple(part is not None for part in signal(name)[1])  # tokens, blocks, output
        for name in TIMESTEP_CONDITIONINGS
    }
    assert reached == {
        "none": (False, False, False),
        "addition": (True, False, False),
        "adaln-zero": (False, True, True),
        "adaln-single": (False, True, True),
    }


@pytest.mark.parametrize("name", ["addition", "adaln-zero", "adaln-single"])
def test_times_are_told_apart(name: str) -> None:
    _, parts = signal(name)
    for part in parts:
        if part is not None:
            assert (part[0] - part[1]).abs().max() > 1e-4
            assert (part[1] - part[2]).abs().max() > 1e-4


def test_the_embedding_is_an_mlp_of_sines_of_the_timestep() -> None:
    conditioning, parts = signal("addition")
    hidden = torch.nn.functional.silu(conditioning.linear_1(sinusoidal_embedding(TIMES, 256)))
    torch.testing.assert_close(parts.tokens, conditioning.linear_2(hidden)[:, None])
    halved = TIMESTEP_CONDITIONINGS["addition"](CHANNELS).bfloat16()(torch.tensor([999.0, 1000.0]), torch.bfloat16)
    assert halved.tokens.dtype == torch.bfloat16


def test_adaln_zero_starts_as_the_identity_with_closed_gates() -> None:
    modulation = LinearModulation(CHANNELS, BLOCK_PARTS)
    modulation.reset_parameters()
    branches = modulation(signal("adaln-zero")[1].blocks)
    assert len(branches) == 2
    for branch in branches:
        assert branch.modulate(X).equal(X)
        assert branch.gated(X).equal(torch.zeros_like(X))


def test_a_modulation_is_shift_scale_and_gate_in_this_order() -> None:
    shift, scale, gate = (torch.full((3, 1, CHANNELS), value) for value in (1.0, 2.0, 3.0))
    branch = Modulation(shift, scale, gate)
    torch.testing.assert_close(branch.modulate(X), X * 3 + 1)
    torch.testing.assert_close(branch.gated(X), X * 3)
    assert Modulation().modulate(X) is X
    assert Modulation().gated(X) is X


def test_adaln_single_adds_each_blocks_own_table_to_one_signal() -> None:
    _, parts = signal("adaln-single")
    assert parts.blocks.shape == (3, BLOCK_PARTS * CHANNELS)
    assert parts.output.shape == (3, OUTPUT_PARTS * CHANNELS)
    table = TableModulation(CHANNELS, BLOCK_PARTS)
    table.reset_parameters()
    attention, mlp = table(parts.blocks)
    values = (table.scale_shift_table + parts.blocks).unflatten(1, (BLOCK_PARTS, CHANNELS))[:, :, None]
    expected = [values[:, index] for index in range(BLOCK_PARTS)]
    for actual, wanted in zip((*attention, *mlp), expected, strict=True):
        assert actual.equal(wanted)
    (output,) = TableModulation(CHANNELS, OUTPUT_PARTS)(parts.output)
    assert output.gate is None


def test_tables_start_with_variance_one_over_channels() -> None:
    table = TableModulation(1000, BLOCK_PARTS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        table.reset_parameters()
    assert abs(table.scale_shift_table.std() * 1000**0.5 - 1) < 0.05
