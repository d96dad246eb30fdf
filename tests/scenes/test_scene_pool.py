"""A pool has just so many captions, and each of them many pictures."""

import pytest

from semantic_routing.scenes import HARD_SKILLS, SKILLS, CaptionPool, sample_scene, worded
from semantic_routing.scenes.claims import Count, Description
from semantic_routing.scenes.grammar import PLANNERS, Draws
from semantic_routing.scenes.held_out import HELD_OUT, NEVER_SHOWN, is_reserved_caption, shown, stated


def test_a_pool_has_so_many_captions_and_draws_from_no_others() -> None:
    pool = CaptionPool(40, seed=3)
    assert len(set(pool.captions)) == 40
    samples = [pool.sample(index) for index in range(200)]
    assert {sample.caption for sample in samples} <= set(pool.captions)
    assert len({sample.caption for sample in samples}) > 25
    assert all(claim.holds(sample.scene) for sample in samples for claim in sample.claims)
    for sample in samples:
        assert NEVER_SHOWN.isdisjoint(shown(sample.scene))
        assert HELD_OUT.isdisjoint(stated(sample.claims))
        assert not is_reserved_caption(sample.caption)


def test_a_caption_has_endless_pictures() -> None:
    pool = CaptionPool(1, skills=["comparison"])
    scenes = [pool.sample(index).scene for index in range(40)]
    assert len(set(scenes)) == 40
    assert len({scene.background for scene in scenes}) > 3


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    first, again = CaptionPool(30, seed=1), CaptionPool(30, seed=1)
    late = again.sample(17)
    assert first.captions == again.captions
    assert [first.sample(index) for index in (0, 17)] == [again.sample(0), late]
    other = CaptionPool(30, seed=2)
    assert other.captions == first.captions  # a text encoder reads them once for all seeds
    assert [other.sample(index) for index in range(5)] != [first.sample(index) for index in range(5)]


def test_too_many_captions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semantic_routing.scenes.pool._PATIENCE", -1980)  # a real search takes a while
    with pytest.raises(ValueError, match=r"2000 captions were wanted.*single_object made only \d+"):
        CaptionPool(2000, skills=["single_object"])


@pytest.mark.parametrize("skill", [*SKILLS, *HARD_SKILLS])
def test_what_is_left_open_changes_nothing_that_is_said(skill: str) -> None:
    planner = PLANNERS[skill][0]
    for number in range(25):
        plans = [planner(Draws(f"{skill} {number}", number / 25, unsaid)) for unsaid in ("a", "b", "c")]
        assert len({(plan.caption, plan.claims, plan.background) for plan in plans}) == 1


@pytest.mark.parametrize("skill", HARD_SKILLS)
def test_hard_skills_have_true_claims_in_both_splits(skill: str) -> None:
    for split in ("train", "held-out"):
        samples = [sample_scene(3, index, split, [skill]) for index in range(25)]
        assert all(claim.holds(sample.scene) for sample in samples for claim in sample.claims)
        assert len({sample.caption for sample in samples}) > 15


def test_bare_claims_are_a_wording_of_the_same_pictures() -> None:
    pool = CaptionPool(30, skills=["coreference", "counting"])
    claims = pool.worded("claims")
    assert pool.worded("sentence") == list(pool.captions)
    assert len(claims) <= 30
    for index in range(20):
        sample = pool.sample(index)
        assert worded("claims", sample.caption, sample.claims) in claims
        assert worded("sentence", sample.caption, sample.claims) == sample.caption
    assert worded("claims", "two red stars", [Count(Description("star", "red"), 2)]) == "2 × red star"
