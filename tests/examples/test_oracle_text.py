"""The oracle's features say every field of every claim, and a claim that it does not know is an error."""

import runpy
from pathlib import Path

import pytest
import torch

from semantic_routing.scenes import ORACLE_FIELDS, CaptionPool, claims_wording, oracle_tokens
from semantic_routing.text import TextEncoder

SCRIPT = Path(__file__).parents[2] / "examples" / "oracle_text.py"


def test_a_token_a_claim_with_all_that_it_says(tmp_path: Path) -> None:
    pool = CaptionPool(8, skills=["coreference", "ordinal"])
    plans = list(pool.plans())
    runpy.run_path(str(SCRIPT))["write_oracle"]((claim for plan in plans for claim in plan.claims), tmp_path)
    encoder = TextEncoder.load(str(tmp_path), torch.float32, layers=[0])
    states, mask = encoder([claims_wording(plan.claims) for plan in plans] + [""])
    starts = [
        sum(len(values) for values in list(ORACLE_FIELDS.values())[:field]) for field in range(len(ORACLE_FIELDS))
    ]
    for row, plan in enumerate(plans):
        assert mask[row].sum() == len(plan.claims)
        for token, ids in zip(states[row, 0], oracle_tokens(plan.claims), strict=False):
            said = {start + value - 1 for start, value in zip(starts, ids, strict=True) if value}
            assert set(token.nonzero().flatten().tolist()) == said
    assert not states[-1].any()
    with pytest.raises(Exception, match="UNK"):
        encoder(["7 × pink heart"])
