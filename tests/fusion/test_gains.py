"""Layers scaled, dropped and heard alone."""

import math

import pytest
import torch
from example_fusions import EXAMPLES, SIZES, make
from torch import Tensor

from semantic_routing.fusion import (
    FUSIONS,
    RoutedFusion,
    SemanticRouter,
    check_scale,
    gains_of,
    read_gains,
    write_gains,
)

LAYERS, BLOCKS = SIZES["num_layers"], SIZES["num_blocks"]
NUMBERS = [2, 4, 6, 8, 10]
TIMES = torch.tensor([900.0, 130.0])
STACK = torch.randn(2, LAYERS, 3, 8, generator=torch.Generator().manual_seed(0))
STATE = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
SINGLE = {"penultimate", "layer-map"}  # a block reads one layer
OWN_WIDTH = {"concat", "bundles", "layer-attention"}  # the context is no mixture of layers


def router_of(strategy: str) -> SemanticRouter:
    return make(strategy, scale=0.1, num_heads=2).eval()


@torch.no_grad()
def context(router: SemanticRouter, gains: Tensor | None, block: int = 1) -> Tensor:
    return router(router.prepare(STACK)._replace(gains=gains), TIMES, STATE, block)


@pytest.mark.parametrize("strategy", FUSIONS)
def test_a_token_stays_as_large_and_equal_gains_change_nothing(strategy: str) -> None:
    router = router_of(strategy)
    plain = context(router, None)
    assert context(router, gains_of({}, NUMBERS, BLOCKS)).equal(plain)
    torch.testing.assert_close(context(router, gains_of({"all": 3}, NUMBERS, BLOCKS)).norm(dim=-1), plain.norm(dim=-1))
    gains = gains_of({4: 0.5, 8: 2}, NUMBERS, BLOCKS)
    changed = context(router, gains)
    torch.testing.assert_close(changed.norm(dim=-1), plain.norm(dim=-1))
    assert (changed - plain).abs().max() > 1e-3 or strategy in SINGLE


@pytest.mark.parametrize("strategy", sorted({*FUSIONS} - {"layer-map"} - OWN_WIDTH))
def test_one_layer_alone_is_that_layer(strategy: str) -> None:
    alone = context(router_of(strategy), gains_of({"all": 0, 8: 1}, NUMBERS, BLOCKS))
    layer = torch.nn.functional.layer_norm(STACK[:, 3], (8,)).expand_as(alone)
    cosine = torch.nn.functional.cosine_similarity(alone, layer, dim=-1)
    torch.testing.assert_close(cosine.abs(), torch.ones_like(cosine))


@pytest.mark.parametrize("strategy", sorted(OWN_WIDTH))
def test_a_dropped_layer_is_not_heard(strategy: str) -> None:
    options = {"layers": "all"} if strategy == "concat" else {"bundles": [[0, 1], [2, 3], [4, 3]]}
    router = make(strategy, scale=0.1, **({} if strategy == "layer-attention" else options)).eval()
    gains, changed = gains_of({4: 0}, NUMBERS, BLOCKS), STACK.clone()
    changed[:, 1] = changed[:, 1].flip(-1)
    before, after = (_direction(router, stack, gains) for stack in (STACK, changed))
    torch.testing.assert_close(after, before)
    assert (_direction(router, changed, None) - _direction(router, STACK, None)).abs().max() > 1e-2


@torch.no_grad()
def _direction(router: SemanticRouter, stack: Tensor, gains: Tensor | None) -> Tensor:
    return torch.nn.functional.normalize(router(router.prepare(stack)._replace(gains=gains), TIMES), dim=-1)


@torch.no_grad()
def test_a_mixture_with_gains_is_the_plain_sum() -> None:
    router = router_of("depth-wise")
    weights = router.layer_weights(TIMES)[:, 0, 0].double()
    features = torch.nn.functional.layer_norm(STACK.double(), (8,), eps=1e-5)
    for block, factors in ((0, [1, 0, 1, 1, 2]), (2, [1, 5, 1, 1, 2])):
        gains = gains_of({4: 0, 10: 2, (2, 4): 5}, NUMBERS, BLOCKS)
        plain, mixed = (
            torch.einsum("l,blnc->bnc", weights[block] * torch.tensor(row), features) for row in ([1] * 5, factors)
        )
        expected = mixed * plain.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(context(router, gains)[block].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strategy", ["uniform", "joint", "key-value", *EXAMPLES])
def test_a_single_block_may_have_gains_of_its_own(strategy: str) -> None:
    router = router_of(strategy)
    plain, gains = context(router, None), gains_of({(1, "all"): 0, (1, 4): 1}, NUMBERS, BLOCKS)
    changed = context(router, gains)
    if "state" in router.fusion.varies_with:
        assert not changed.equal(plain)
        assert context(router, gains, 2).equal(context(router, None, 2))
        return
    readers = math.prod(router.fusion.readers)
    assert len(changed) == BLOCKS * readers
    for index in range(len(changed)):
        same = changed[index].equal(plain[min(index, len(plain) - 1)])
        assert same == (index // readers != 1)


def test_a_token_of_which_nothing_is_left_is_zero() -> None:
    changed = context(router_of("penultimate"), gains_of({8: 0}, NUMBERS, BLOCKS))
    assert changed.equal(torch.zeros_like(changed))


def test_as_written_on_a_command_line() -> None:
    assert read_gains("3=0, 5=2.5") == {3: 0.0, 5: 2.5}
    assert read_gains("all=0,2:5=1,2:all=0.5") == {"all": 0.0, (2, 5): 1.0, (2, "all"): 0.5}
    assert write_gains(read_gains("all=0,2:5=1,2:all=0.5")) == "all=0,2:5=1,2:all=0.5"
    for text in ("3", "3=", "a=1", "3=x", "3=1,", "1:2:3=4"):
        with pytest.raises(ValueError, match="LAYER=FACTOR"):
            read_gains(text)


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        ({3: 0.0}, r"Layer 3 has a gain but is not read: the model reads \[2, 4, 6, 8, 10\]"),
        ({4: math.nan}, "layer 4 is nan"),
        ({4: math.inf}, "layer 4 is inf"),
        ({(3, 4): 0.0}, "no block 3 to set gains of: the blocks are 0 to 2"),
    ],
)
def test_gains_that_cannot_be(gains: dict[object, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        gains_of(gains, NUMBERS, BLOCKS)


CONVEX = [name for name in FUSIONS if issubclass(kind := FUSIONS.find(name), RoutedFusion) and kind.convex]


@pytest.mark.parametrize("strategy", CONVEX)
@torch.no_grad()
def test_a_scale_goes_along_the_line_from_the_plain_mean_of_layers(strategy: str) -> None:
    def scaled(scale: float, gains: Tensor | None = None) -> Tensor:
        return router(router.prepare(STACK, reused=True)._replace(scale=scale, gains=gains), TIMES, STATE, 1)

    router = router_of(strategy)
    trained = context(router, None)
    mean = torch.nn.functional.layer_norm(STACK, (8,)).mean(1).expand_as(trained)
    assert scaled(1).equal(router(router.prepare(STACK, reused=True), TIMES, STATE, 1))
    torch.testing.assert_close(scaled(0), mean)
    for scale in (0.3, 2.5, -1.0):
        torch.testing.assert_close(scaled(scale), mean + scale * (trained - mean), rtol=1e-4, atol=1e-5)
    gains = gains_of({"all": 0, 8: 1}, NUMBERS, BLOCKS)
    torch.testing.assert_close(scaled(0, gains).norm(dim=-1), mean.norm(dim=-1))


def test_scales_that_cannot_be_are_refused() -> None:
    ours = {name for name, kind in FUSIONS.items() if kind.__module__.startswith("semantic_routing.")}
    assert sorted(ours - {*CONVEX}) == ["bundles", "concat", "layer-attention", "signed"]
    with pytest.raises(ValueError, match=r"A fusion scale of 2 needs a convex mixture of layers, but .* has Signed"):
        check_scale(2.0, router_of("signed").fusion)
    with pytest.raises(ValueError, match=r"has no fusion: expected 1"):
        check_scale(0.0, None)
    with pytest.raises(ValueError, match=r"is a finite number, not nan"):
        check_scale(math.nan, router_of("joint").fusion)
    check_scale(1.0, router_of("concat").fusion)
