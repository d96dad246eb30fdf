import pytest
import torch
from tiny import normal
from torch import Tensor

from semantic_routing.models.attention import CrossAttention, RMSNorm, SelfAttention
from semantic_routing.models.block import GatedMLP
from semantic_routing.models.rotary import rotary_2d
from semantic_routing.models.tokens import TextTokens

HEAD = 8


def make(kind: type, heads: int, key_value_heads: int, source: int = 16) -> torch.nn.Module:
    module = kind(16, source, heads, key_value_heads, HEAD, 1e-6)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`batch tokens heads channels`, in float64."""
    scores = torch.einsum("bqhc,bkhc->bhqk", query.double(), key.double()) / HEAD**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.einsum("bhqk,bkhc->bqhc", scores.softmax(-1), value.double()).float()


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@torch.no_grad()
def test_grouped_heads_equal_explicit_repetition(key_value_heads: int) -> None:
    module = make(CrossAttention, 4, key_value_heads, source=12)
    x, text = normal(2, 5, 16), normal(2, 7, 12, seed=1)
    text[0, 3:] = torch.nan  # padding, which nothing may read
    tokens = TextTokens.of(torch.arange(7) < torch.tensor([[3], [7]]), 2, 7)
    context = tokens.pack(text[None])[None]
    query, (key, value) = module.query(x), module.key_value(text)
    assert key.shape == (2, 7, key_value_heads, HEAD)
    repeated = (tensor.nan_to_num().repeat_interleave(4 // key_value_heads, dim=2) for tensor in (key, value))
    expected = module.to_out(plain_attention(query, *repeated, tokens.mask).flatten(2))
    torch.testing.assert_close(module(x, context, tokens), expected, rtol=1e-4, atol=1e-4)
    assert module(x, module.text_key_value(context, tokens), tokens).equal(module(x, context, tokens))


@pytest.mark.parametrize(("roles", "heads"), [(1, 2), (2, 1), (2, 2)])
@torch.no_grad()
def test_each_role_and_each_head_reads_its_own_context(roles: int, heads: int) -> None:
    module = make(CrossAttention, 4, 2, source=12)
    tokens = TextTokens.of(None, 1, 7)
    contexts = normal(roles, heads, 7, 12)
    key, value = module.text_key_value(contexts, tokens)
    for head in range(2):
        sources = (contexts[role, min(head, heads - 1)] for role in (0, roles - 1))
        (own_key, _), (_, own_value) = (module.key_value(source[None]) for source in sources)
        torch.testing.assert_close(key[:, :, head], own_key[:, :, head])
        torch.testing.assert_close(value[:, :, head], own_value[:, :, head])


@torch.no_grad()
def test_queries_and_keys_are_normalized_and_values_are_not() -> None:
    module = make(SelfAttention, 4, 2)
    for norm in (module.norm_q, module.norm_k):
        norm.weight.fill_(1)
    x = 50 * normal(2, 5, 16)
    query, (key, value) = module.query(x), module.key_value(x)
    for tensor in (query, key):
        torch.testing.assert_close(tensor.square().mean(-1), torch.ones(tensor.shape[:-1]))
    assert value.square().mean() > 100


@torch.no_grad()
def test_rotary_is_the_formula() -> None:
    rows, columns, base, offset = 3, 4, 100.0, 2.0
    x = normal(1, rows * columns, 16)
    module = make(SelfAttention, 4, 4)
    query, (key, value) = module.query(x), module.key_value(x)

    def rotated(tensor: Tensor) -> Tensor:
        result = torch.empty_like(tensor)
        half, quarter = HEAD // 2, HEAD // 4
        for row in range(rows):
            for column in range(columns):
                token = row * columns + column
                for pair in range(half):
                    position = (row if pair < quarter else column) + offset
                    angle = torch.tensor(position * base ** (-(pair % quarter) / quarter))
                    a, b = tensor[:, token, :, pair], tensor[:, token, :, pair + half]
                    result[:, token, :, pair] = a * angle.cos() - b * angle.sin()
                    result[:, token, :, pair + half] = b * angle.cos() + a * angle.sin()
        return result

    table = rotary_2d(rows, columns, HEAD, base, torch.device("cpu"), offset)
    assert all(part.dtype == torch.float32 and part.shape == (rows * columns, HEAD) for part in table)
    expected = module.to_out(plain_attention(rotated(query), rotated(key), value).flatten(2))
    torch.testing.assert_close(module(x, table), expected, rtol=1e-4, atol=1e-4)


def test_a_table_with_an_offset_is_a_part_of_a_larger_one() -> None:
    """Rows and columns both: attention among image tokens alone would not see it."""
    cpu = torch.device("cpu")
    for whole, part in zip(rotary_2d(5, 6, HEAD, 100.0, cpu), rotary_2d(3, 4, HEAD, 100.0, cpu, 2.0), strict=True):
        assert part.view(3, 4, HEAD).equal(whole.view(5, 6, HEAD)[2:, 2:])


@torch.no_grad()
def test_rotary_attention_sees_only_differences_of_position() -> None:
    module, x = make(SelfAttention, 4, 2), normal(2, 12, 16)
    here, there = (rotary_2d(3, 4, HEAD, 100.0, torch.device("cpu"), offset) for offset in (0.0, 5.0))
    torch.testing.assert_close(module(x, here), module(x, there), rtol=1e-3, atol=1e-3)
    assert (module(x, here) - module(x, None)).abs().max() > 1e-2


def test_rms_norm_keeps_the_dtype_and_counts_in_float32() -> None:
    norm = RMSNorm(64, 1e-6)
    x = 100 * normal(3, 64)
    exact = x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(norm(x), exact)
    halved = norm(x.bfloat16())
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), exact, rtol=0.02, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_gated_mlp_is_its_formula() -> None:
    mlp, x = GatedMLP(6, 10), normal(2, 3, 6)
    gate = x @ mlp.gate_proj.weight.T
    expected = (gate * gate.sigmoid() * (x @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    torch.testing.assert_close(mlp(x), expected)
