"""Every fusion against a plain float64 writing of its formula, and against what it reduces to."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from example_fusions import randomize
from torch import Tensor

from semantic_routing.fusion import FUSIONS, Moment, SemanticRouter, TextFusion
from semantic_routing.fusion.chosen import choose_layers
from semantic_routing.fusion.contract import FusionSizes
from semantic_routing.fusion.gate import TIME_CHANNELS

LAYERS, BLOCKS, ROWS, TOKENS, CHANNELS, HEADS, STATE = 6, 4, 2, 3, 8, 2, 5
SIZES = {"text_channels": CHANNELS, "state_channels": STATE, "num_heads": HEADS}
TIMES = torch.tensor([900.0, 130.0])
STATES = torch.randn(ROWS, STATE, generator=torch.Generator().manual_seed(2))
STACK = 3 * torch.randn(ROWS, LAYERS, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(1))
BLOCK = 2

Features = Tensor  # of one token, "layers channels", normalized, float64
Formula = Callable[[Any, Features, int, int], Tensor]


def build(strategy: str, num_layers: int = LAYERS, start: bool = False, **options: Any) -> SemanticRouter:
    """With random weights, unless its start is wanted."""
    torch.manual_seed(0)
    router = SemanticRouter(strategy, num_layers, BLOCKS, **SIZES, **options).eval()
    return router if start else randomize(router, scale=0.5)


@torch.no_grad()
def context_of(router: SemanticRouter, stack: Tensor = STACK) -> Tensor:
    """Of all blocks, or of `BLOCK` alone for a fusion that reads the image: `blocks batch text_tokens channels`."""
    if "state" in router.fusion.varies_with:
        return router(router.prepare(stack), TIMES, STATES, BLOCK)
    return router(router.prepare(stack), TIMES)


def normalized(stack: Tensor = STACK) -> Tensor:
    centered = stack.double() - stack.double().mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def weighted(logits: Tensor, features: Features) -> Tensor:
    return (logits.double().exp() / logits.double().exp().sum()) @ features


def gate(fusion: Any, index: int, position: Tensor) -> Tensor:
    frequencies = 10000.0 ** (-2 * torch.arange(TIME_CHANNELS // 2, dtype=torch.float64) / TIME_CHANNELS)
    phi = torch.cat([(position.double() * frequencies).cos(), (position.double() * frequencies).sin()])
    weight_in, bias_in, weight_out, bias_out = (parameter[index].double() for parameter in fusion.gate.parameters())
    hidden = weight_in @ phi + bias_in
    return weight_out @ (hidden * hidden.sigmoid()) + bias_out


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def transformer_layer(layer: Any, x: Tensor) -> Tensor:
    """Pre-norm, one head: `sequence channels`."""
    query, key, value = (layer_norm(x, layer.norm1) @ layer.self_attn.in_proj_weight.T).chunk(3, -1)
    biases = layer.self_attn.in_proj_bias.chunk(3)
    query, key, value = (part + bias for part, bias in zip((query, key, value), biases, strict=True))
    attended = (query @ key.T / CHANNELS**0.5).softmax(-1) @ value
    x = x + layer.self_attn.out_proj(attended)
    return x + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer_norm(x, layer.norm2))))


def sigma_estimated(fusion: Any, features: Features, block: int, row: int) -> Tensor:
    state = STATES[row].double()
    sigma = 1 / (1 + (-(fusion.direction[block].double() @ state + fusion.offset[block])).exp())
    return weighted(gate(fusion, block, sigma), features)


def bundles(fusion: Any, features: Features, block: int, row: int) -> Tensor:
    # 6 layers in bundles of 3 make two that interleave; the second is for all blocks.
    own = features[[0, 2, 4]] if block < 2 else features[[1, 3, 5]]
    return features[[1, 3, 5]].flatten() + fusion.gate[block].double() * own.flatten()


# Of one token: (fusion, normalized features of its layers, index on the context's first axis, row) -> its context.
FORMULAS: dict[str, Formula] = {
    "penultimate": lambda f, x, d, b: x[LAYERS - 2],
    "uniform": lambda f, x, d, b: x.mean(0),
    "static": lambda f, x, d, b: weighted(f.beta, x),
    "time-wise": lambda f, x, d, b: weighted(gate(f, 0, TIMES[b] / 1000), x),
    "depth-wise": lambda f, x, d, b: weighted(f.beta[d], x),
    "joint": lambda f, x, d, b: weighted(gate(f, d, TIMES[b] / 1000), x),
    "scaled-time": lambda f, x, d, b: weighted(gate(f, d, TIMES[b]), x),
    "bundles": bundles,
    "concat": lambda f, x, d, b: x[[1, 2, 3]].flatten(),
    "head-wise": lambda f, x, d, b: weighted(f.beta[d // HEADS, d % HEADS], x),
    "key-value": lambda f, x, d, b: weighted(f.beta[d // 2, d % 2], x),
    "layer-map": lambda f, x, d, b: x[[0, 2, 3, 5][d]],
    "sigma-estimated": sigma_estimated,
    "signed": lambda f, x, d, b: sum(f.gamma[d].double() * f.z[d, layer].double() * x[layer] for layer in range(6)),
    "state-wise": lambda f, x, d, b: weighted(f.beta[d] + f.keys @ (f.query[d] @ STATES[b]), x),
    "token-wise": lambda f, x, d, b: weighted(f.beta[d] + (x @ f.projection.double().T) @ f.query[d].double(), x),
}
WRITTEN = {*FORMULAS, "layer-attention"}


def test_every_fusion_has_a_formula_here_and_a_place_in_the_gallery() -> None:
    assert {name for name in FUSIONS if not name.startswith("test-")} == WRITTEN
    page = Path(__file__).parents[2].joinpath("docs", "fusions.md").read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^### (.*)", page)
    assert {name for heading in headings for name in re.findall("`(.*?)`", heading)} == WRITTEN
    table = page.partition("## Which to take")[2].partition("##")[0]
    assert set(re.findall(r"(?m)^\| `(.*?)`", table)) == WRITTEN


@pytest.mark.parametrize("strategy", FORMULAS)
@torch.no_grad()
def test_the_context_is_the_formula(strategy: str) -> None:
    router = build(strategy)
    context, features = context_of(router), normalized()
    first = BLOCK if "state" in router.fusion.varies_with else 0
    for index, row, token in torch.cartesian_prod(*map(torch.arange, (len(context), ROWS, TOKENS))).tolist():
        expected = FORMULAS[strategy](router.fusion, features[row, :, token], first + index, row)
        torch.testing.assert_close(context[index, row, token].double(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layer_attention_is_its_formula() -> None:
    router = build("layer-attention", depth=2, refiners=1)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    context = router(router.prepare(STACK, mask), TIMES)
    plain = build("layer-attention", depth=2, refiners=1).fusion.double()
    for row, length in ((0, 2), (1, 3)):
        tokens = []
        for token in range(length):
            layers = normalized()[row, :, token]
            for layer in plain.across_layers:
                layers = transformer_layer(layer, layers)
            tokens.append(plain.mix @ layers)
        expected = transformer_layer(plain.across_tokens[0], torch.stack(tokens))
        torch.testing.assert_close(context[0, row, :length].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", sorted(WRITTEN - {"penultimate", "concat", "bundles", "layer-map"}))
def test_learned_fusions_start_as_the_mean(strategy: str) -> None:
    context = context_of(build(strategy, start=True)).double()
    torch.testing.assert_close(context, normalized().mean(1).expand_as(context), rtol=0, atol=1e-6)


@torch.no_grad()
def test_each_reduces_to_depth_wise() -> None:
    depth = build("depth-wise")
    expected, beta = context_of(depth), depth.fusion.beta
    for strategy, zero in (("token-wise", "query"), ("state-wise", "keys")):
        router = build(strategy)
        router.fusion.beta.copy_(beta)
        getattr(router.fusion, zero).zero_()
        whole = expected[BLOCK : BLOCK + 1] if strategy == "state-wise" else expected
        torch.testing.assert_close(context_of(router), whole, rtol=0, atol=1e-6)
    for strategy in ("head-wise", "key-value"):
        router = build(strategy)
        router.fusion.beta.copy_(beta[:, None].expand_as(router.fusion.beta))
        torch.testing.assert_close(context_of(router), expected.repeat_interleave(2, 0), rtol=0, atol=1e-6)
    signed, scaled = build("signed"), build("scaled-time")
    signed.fusion.z.copy_(beta.softmax(-1))
    signed.fusion.gamma.fill_(1)
    scaled.fusion.gate.weight_out.zero_()
    scaled.fusion.gate.bias_out.copy_(beta)
    for router in (signed, scaled):
        torch.testing.assert_close(context_of(router), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_right_estimate_of_the_noise_level_is_joint() -> None:
    joint, estimated = build("joint"), build("sigma-estimated")
    estimated.fusion.gate.load_state_dict(joint.fusion.gate.state_dict())
    estimated.fusion.direction.zero_()
    estimated.fusion.offset.copy_(torch.logit(torch.full((BLOCKS,), 0.9)))
    ours, theirs = context_of(estimated)[:, :1], context_of(joint)[BLOCK : BLOCK + 1, :1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_one_layer_is_that_layer() -> None:
    layer = normalized()[:, 4].float()
    one_hot = build("depth-wise")
    one_hot.fusion.beta.fill_(-1e4).index_fill_(1, torch.tensor([4]), 1e4)
    one_bundle = build("bundles", bundles=[[4], [0]], start=True)
    for router in (build("concat", layers=[4]), build("layer-map", layers=[4] * BLOCKS), one_bundle, one_hot):
        context = context_of(router)
        torch.testing.assert_close(context, layer.expand_as(context), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("concat", {}),
        ("concat", {"layers": [5, 1]}),
        ("layer-attention", {"layers": 4}),
        ("layer-map", {"layers": [4, 1, 1, 4]}),
        ("layer-map", {}),
        ("bundles", {"bundles": [[0, 1], [5, 2]]}),
        ("bundles", {"bundles": 4}),
    ],
)
def test_the_layers_that_are_read_suffice(strategy: str, options: dict[str, Any]) -> None:
    read = FUSIONS[strategy].layers_read(LAYERS, BLOCKS, **options)
    assert read == sorted(set(read))
    alone = build(strategy, len(read), **options)
    torch.testing.assert_close(context_of(alone, STACK[:, read]), context_of(build(strategy, **options)))


def test_a_number_of_layers_cuts_the_model_evenly() -> None:
    for count, layers, numbers in ((3, 40, [10, 20, 30]), (3, 36, [9, 18, 27]), (8, 36, list(range(4, 36, 4)))):
        assert [position + 1 for position in choose_layers(count, layers)] == numbers
    for layers in range(1, 40):
        for count in range(1, layers + 1):
            assert len(set(choose_layers(count, layers))) == count


def test_the_estimate_learns_from_its_error_alone() -> None:
    router = build("sigma-estimated").train()
    fusion, state = router.fusion, STATES.clone().requires_grad_()
    for block in range(BLOCKS):
        context = fusion(router.prepare(STACK), Moment(TIMES, state, block))
    loss = fusion.auxiliary_loss()
    assert loss is not None
    sigma = torch.sigmoid(STATES.double() @ fusion.direction.double().T + fusion.offset.double())
    expected = (sigma - TIMES.double()[:, None] / 1000).square().mean(1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert fusion.auxiliary_loss() is None
    own = (fusion.direction, fusion.offset)
    assert torch.autograd.grad(context.sum(), (*own, state), retain_graph=True, allow_unused=True) == (None,) * 3
    of_loss = torch.autograd.grad(loss.sum(), (*own, state, fusion.gate.bias_out), allow_unused=True)
    assert all(gradient is not None for gradient in of_loss[:2])
    assert of_loss[2:] == (None, None)


@pytest.mark.parametrize(
    ("strategy", "options", "sentence"),
    [
        ("layer-map", {"layers": [0, 1, 2, 6]}, "no layer 6: the 6 layers are counted from 0"),
        ("layer-map", {"layers": [0, 1, 2]}, r"4 blocks need as many, not \[0, 1, 2\]"),
        ("concat", {"layers": 7}, "1 to 6, not 7"),
        ("concat", {"layers": [-1]}, "no layer -1"),
        ("concat", {"layers": "some"}, "not 'some'"),
        ("concat", {"layers": []}, r"not \[\]"),
        ("layer-attention", {"attention_heads": 3}, "3 heads cannot share 8 channels"),
        ("bundles", {"bundles": [[0, 1], [2]]}, r"equal size, not of sizes \[2, 1\]"),
        ("bundles", {"bundles": [[0, 1]]}, "two or more"),
        ("bundles", {"bundles": 7}, "1 to 6, not 7"),
        ("token-wise", {"rank": 0}, "rank must be 1 to 4096, not 0"),
        ("state-wise", {"rank": 4097}, "not 4097"),
        ("joint", {"time_channels": 7}, "time_channels must be even and 2 to 4096, not 7"),
        ("layer-attention", {"depth": -1}, "depth -1 and refiners 2 must be 0 or more"),
        ("layer-attention", {"mlp_ratio": 0.0}, "mlp_ratio 0 more than 0"),
        ("layer-attention", {"attention_heads": 0}, "0 heads cannot share 8 channels"),
    ],
)
def test_options_that_do_not_fit(strategy: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        build(strategy, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("concat", {"layers": [0, 1, 9]}),
        ("layer-attention", {"layers": [0, 1, 9]}),
        ("layer-map", {"layers": [0, 1, 9]}),
        ("bundles", {"bundles": [[0], [1], [9]]}),
    ],
)
def test_positions_are_of_the_text_encoder_s_layers(strategy: str, options: dict[str, Any]) -> None:
    """Three of ten are read; an encoder of three has no tenth, although a stack of these three has as many."""
    kind = FUSIONS[strategy]
    assert kind.layers_read(10, 3, **options) == [0, 1, 9]
    with pytest.raises(ValueError, match="There is no layer 9: the 3 layers are counted from 0"):
        kind.layers_read(3, 3, **options)
    kind(FusionSizes(3, 3, 8), **options)  # built for what it reads


def test_a_missing_size_is_named() -> None:
    for strategy, name in (("head-wise", "num_heads"), ("state-wise", "state_channels"), ("concat", "text_channels")):
        fusion: Callable[[], TextFusion] = lambda strategy=strategy: SemanticRouter(strategy, 6, 4).fusion  # noqa: E731
        with pytest.raises(ValueError, match=f"without {name}"):
            _ = fusion().out_channels
    with pytest.raises(ValueError, match="each is the only one"):
        build("layer-map").fusion.keep_layers([0])
