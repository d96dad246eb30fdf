import doctest
import subprocess
import sys

import pytest
import torch
from example_fusions import EXAMPLES, SIZES, make
from torch import Tensor, nn

import semantic_routing.fusion
from semantic_routing.fusion import FUSIONS, FusionSizes, Moment, Prepared, SemanticRouter, TextFusion, check_fusion

LAYERS = SIZES["num_layers"]
STATE = torch.randn(3, 6, generator=torch.Generator().manual_seed(9))


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.bfloat16])
def test_a_mask_may_have_any_type(dtype: torch.dtype) -> None:
    router = make("static")
    stack, mask = features(2, LAYERS, 9, 8), torch.arange(9) < torch.tensor([[2], [5]])
    expected, prepared = router.prepare(stack, mask), router.prepare(stack, mask.to(dtype))
    assert prepared.mask is not None
    assert prepared.mask.equal(expected.mask)
    assert prepared.features.equal(stack[:, :, :5])


def test_a_mask_that_is_added_to_scores_is_refused() -> None:
    additive = torch.tensor([[0.0, 0.0, -1e9]])
    with pytest.raises(ValueError, match=r"1 for real tokens and 0 for padding, but this one holds -1e\+09"):
        make("static").prepare(features(1, LAYERS, 3, 8), additive)


def test_without_a_mask_nothing_is_cut() -> None:
    prepared = make("static").prepare(features(2, LAYERS, 4, 8))
    assert prepared.mask is None
    assert prepared.features.shape == (2, LAYERS, 4, 8)


def test_a_row_without_any_token_is_marked_and_reads_all_positions() -> None:
    mask = torch.tensor([[False] * 4, [True, True, False, False]])
    prepared = make("static").prepare(features(2, LAYERS, 4, 8), mask)
    assert prepared.mask is not None
    assert prepared.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert prepared.blank is not None
    assert prepared.blank.tolist() == [True, False]
    rows = prepared.rows(torch.tensor([1, 0, 0]))
    assert rows.blank is not None
    assert rows.blank.tolist() == [False, True, True]


def test_padding_on_the_left_is_no_reason_to_cut_tokens_on_the_right() -> None:
    prepared = make("static").prepare(features(1, LAYERS, 4, 8), torch.tensor([[0, 0, 1, 0]]))
    assert prepared.mask is not None
    assert prepared.mask.tolist() == [[False, False, True]]


def test_rows_may_repeat() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    prepared = make("static").prepare(features(2, LAYERS, 3, 8), mask)
    rows = prepared.rows(torch.tensor([1, 0, 1]))
    assert rows.features.equal(prepared.features[[1, 0, 1]])
    assert rows.mask is not None
    assert rows.mask.equal(mask[[1, 0, 1]])


@pytest.mark.parametrize("strategy", EXAMPLES)
def test_one_prompt_equals_a_batch_of_them(strategy: str) -> None:
    router, stack = make(strategy), features(3, LAYERS, 4, 8)
    times = torch.tensor([10.0, 500.0, 900.0])
    together = router(router.prepare(stack), times, STATE, 1)
    for row in range(3):
        one = slice(row, row + 1)
        alone = router(router.prepare(stack[one]), times[one], STATE[one], 1)
        torch.testing.assert_close(alone, together[:, one])


def test_by_token_is_the_plain_sum() -> None:
    router, stack = make("test-by-token"), features(2, LAYERS, 4, 8)
    normalized = torch.nn.functional.layer_norm(stack, (8,), eps=1e-5)
    context = router(router.prepare(stack), torch.tensor([500.0]))
    for row, token in ((0, 0), (1, 3)):
        logits = normalized[row, :, token] @ router.fusion.query
        expected = logits.softmax(-1) @ normalized[row, :, token]
        torch.testing.assert_close(context[0, row, token], expected, rtol=1e-5, atol=1e-5)


def test_by_state_two_rows_of_one_prompt_differ_by_their_images() -> None:
    router = make("test-by-state")
    prepared = router.prepare(features(1, LAYERS, 4, 8)).rows(torch.tensor([0, 0, 0]))
    context = router(prepared, torch.tensor([500.0]), STATE, 2)[0]
    assert (context[0] - context[1]).abs().max() > 1e-3
    assert router(prepared, torch.tensor([500.0]), STATE[[0, 0, 0]], 2)[0, 0].equal(context[0])
    other_block = router(prepared, torch.tensor([500.0]), STATE, 0)[0]
    assert (context - other_block).abs().max() > 1e-3


class Contradiction(TextFusion):
    """Says that its context differs by block, and gives one."""

    varies_with = frozenset({"block"})

    def forward(self, prepared: Prepared, moment: Moment) -> Tensor:
        return prepared.features[:, 0][None]


def test_a_shape_that_contradicts_what_a_fusion_says_is_refused() -> None:
    sizes = FusionSizes(5, 3, 8)
    with pytest.raises(ValueError, match=r"'odd' says .*\['block'\].*\(3, 2, 3, 8\), not \(1, 2, 3, 8\)"):
        check_fusion(Contradiction(sizes), "odd")
    unknown = type("Unknown", (Contradiction,), {"varies_with": frozenset({"weather"})})
    known = "block, head, role, state, timestep, token"
    with pytest.raises(ValueError, match=f"'odd' varies with 'weather': expected some of {known}"):
        check_fusion(unknown(sizes), "odd")


def test_names_are_taken_once() -> None:
    with pytest.raises(ValueError, match=r"'joint' is registered already, by semantic_routing\.fusion\.routed\.Joint"):
        FUSIONS.register("joint")(Contradiction)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"'uniform' and its options do not go together: .*'depth'"):
        SemanticRouter("uniform", 5, 3, depth=2)
    with pytest.raises(ValueError, match=r"'deep'.*penultimate, uniform, static, depth-wise, time-wise, joint"):
        SemanticRouter("deep", 5, 3)
    with pytest.raises(ValueError, match="not 0 and 3"):
        SemanticRouter("static", 0, 3)
    with pytest.raises(ValueError, match="built for 5 layers and got 4"):
        SemanticRouter("static", 5, 3).prepare(torch.zeros(1, 4, 2, 8))
    with pytest.raises(ValueError, match="without text_channels"):
        _ = SemanticRouter("static", 5, 3).fusion.out_channels


def test_a_fusion_with_a_state_of_its_own_is_a_module() -> None:
    assert isinstance(make("static").fusion, nn.Module)


def test_the_example_in_the_documentation_runs() -> None:
    results = doctest.testmod(semantic_routing.fusion)
    assert results.attempted >= 8
    assert results.failed == 0


def test_fusion_needs_torch_alone() -> None:
    code = (
        "import sys, semantic_routing.fusion\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(tops & {'diffusers', 'transformers', 'accelerate', 'einops', 'pydantic', 'PIL'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
