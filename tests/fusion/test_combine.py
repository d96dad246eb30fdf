from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from semantic_routing.fusion import PAPER_STRATEGIES, SemanticRouter
from semantic_routing.fusion.combine import NORM_EPS, PIECE_BYTES, combine, fuse, normalize

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm}


class Watch(TorchDispatchMode):
    """Counts matrix products and keeps the largest float32 tensor that anything returns."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.largest_float32 = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func.overloadpacket in PRODUCTS
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32:
                self.largest_float32 = max(self.largest_float32, tensor.numel())
        return result


def features(*shape: int, seed: int = 0, **options: Any) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=options.pop("dtype", None)).to(
        **options
    )


@pytest.mark.parametrize("piece_bytes", [1, 2000, 2**21])
@pytest.mark.parametrize("rows", [1, 3])
def test_fusion_is_the_plain_sum_with_its_gradients(
    rows: int, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PIECE_BYTES, "cpu", piece_bytes)
    stack = features(3, 5, 7, 4, dtype=torch.float64).requires_grad_()
    weights = features(2, rows, 1, 5, seed=1, dtype=torch.float64).softmax(-1).requires_grad_()
    plain = sum(
        weights[..., layer, None] * torch.nn.functional.layer_norm(stack[:, layer], (4,), eps=NORM_EPS)
        for layer in range(5)
    )
    probe = features(2, 3, 7, 4, seed=2, dtype=torch.float64)
    expected = torch.autograd.grad((plain * probe).sum(), (weights, stack))
    for fused in (combine(weights, normalize(stack)), fuse(weights, stack)):
        torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
        actual = torch.autograd.grad((fused * probe).sum(), (weights, stack))
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trained", [(True, False), (False, True)])
def test_only_the_gradients_that_are_asked_for_are_computed(trained: tuple[bool, bool]) -> None:
    weights = features(2, 1, 1, 5).softmax(-1).requires_grad_(trained[0])
    stack = features(3, 5, 7, 4, seed=1).requires_grad_(trained[1])
    fuse(weights, stack).square().sum().backward()
    assert [weights.grad is not None, stack.grad is not None] == list(trained)


def test_training_keeps_the_stack_as_it_came_and_nothing_else_of_its_size() -> None:
    kept: list[torch.Tensor] = []
    router = SemanticRouter("joint", num_layers=6, num_blocks=1)
    stack = features(2, 6, 32, 64)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        router(router.prepare(stack), torch.tensor([10.0, 900.0]))
    large = [tensor for tensor in kept if tensor.numel() >= stack[:, 0].numel()]
    assert [tensor.data_ptr() for tensor in large] == [stack.data_ptr()]


@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_text_prepared_for_sampling_is_fused_as_in_training(strategy: str) -> None:
    router = SemanticRouter(strategy, num_layers=6, num_blocks=4)
    stack, timestep = features(2, 6, 9, 16), torch.tensor([10.0, 900.0])
    trained = router(router.prepare(stack), timestep)
    with torch.no_grad():
        sampled = router.prepare(stack, reused=True)
        assert sampled.normalized == ("timestep" in router.fusion.varies_with)
        torch.testing.assert_close(router(sampled, timestep), trained.detach())


def test_normalize_gives_every_layer_the_same_say() -> None:
    stack = features(2, 3, 5, 64) * torch.tensor([1.0, 100.0, 1e4])[:, None, None] + 3
    normalized = normalize(stack)
    assert normalized.mean(-1).abs().max() < 1e-4
    torch.testing.assert_close(normalized.std(-1, unbiased=False), torch.ones(2, 3, 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_all_blocks_are_one_matrix_product(strategy: str) -> None:
    router = SemanticRouter(strategy, num_layers=6, num_blocks=8)
    timestep = torch.tensor([10.0, 900.0])
    with torch.no_grad():
        prepared = router.prepare(features(2, 6, 20, 16))
        with Watch() as watch:
            router.layer_weights(timestep)
        in_the_gate = watch.products
        with Watch() as watch:
            router(prepared, timestep)
    assert watch.products - in_the_gate == 1


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_a_bfloat16_stack_is_never_copied_to_float32(strategy: str, autocast: bool) -> None:
    router = SemanticRouter(strategy, num_layers=6, num_blocks=4)
    stack = features(2, 6, 128, 256, dtype=torch.bfloat16)
    with Watch() as watch, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        context = router(router.prepare(stack), torch.tensor([10.0, 900.0]))
        context.sum().backward() if context.requires_grad else None
    assert context.dtype == torch.bfloat16
    # The gates' own weights aside, nothing in float32 is as large as one layer of the stack.
    gates = sum(parameter.numel() for parameter in router.parameters())
    assert watch.largest_float32 <= max(gates, stack[:, 0].numel() - 1) < stack.numel()


def test_a_bfloat16_stack_is_summed_to_bfloat16_accuracy() -> None:
    router = SemanticRouter("uniform", num_layers=36, num_blocks=1)
    stack = features(1, 36, 10, 64)
    exact = router(router.prepare(stack), torch.tensor([0.0]))
    rounded = router(router.prepare(stack.bfloat16()), torch.tensor([0.0]))
    assert (rounded.float() - exact).abs().max() < 0.01


def test_one_timestep_serves_all_prompts() -> None:
    torch.manual_seed(0)
    router = SemanticRouter("joint", num_layers=3, num_blocks=2)
    torch.nn.init.normal_(router.fusion.gate.weight_out, generator=torch.Generator().manual_seed(0))
    prepared = router.prepare(features(4, 3, 5, 8))
    torch.testing.assert_close(router(prepared, torch.tensor([300.0])), router(prepared, torch.full((4,), 300.0)))
    rows = router(prepared, torch.tensor([0.0, 300.0, 700.0, 1000.0]))
    torch.testing.assert_close(rows[:, 1], router(prepared, torch.tensor([300.0]))[:, 1])
    assert (rows[:, 2] - router(prepared, torch.tensor([300.0]))[:, 2]).abs().max() > 1e-3
