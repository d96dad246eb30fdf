"""Each edit changes one thing, is false of the picture, and says what its claims say."""

import re
from collections import Counter

import pytest

from semantic_routing.scenes import (
    EDIT_KINDS,
    HARD_SKILLS,
    SKILLS,
    Edit,
    SceneSample,
    edits,
    judge,
    render,
    sample_scene,
)
from semantic_routing.scenes.edits import _with_articles

ALL_SKILLS = (*SKILLS, *HARD_SKILLS)


def edited(skill: str, count: int = 30) -> list[tuple[SceneSample, Edit]]:
    samples = [sample_scene(2, index, skills=[skill]) for index in range(count)]
    return [(sample, edit) for sample in samples for edit in edits(sample)]


@pytest.mark.parametrize("skill", ALL_SKILLS)
def test_an_edit_is_false_by_what_it_changed_and_by_nothing_else(skill: str) -> None:
    found = edited(skill)
    assert len({sample.caption for sample, _ in found}) > 20
    for sample, edit in found:
        assert edit.caption != sample.caption
        assert edit.kind in EDIT_KINDS
        assert len(edit.claims) == len(sample.claims)
        changed = {new for old, new in zip(sample.claims, edit.claims, strict=True) if new != old}
        assert edit.false_claims, edit
        assert set(edit.false_claims) <= changed, edit
        assert not any(claim.holds(sample.scene) for claim in edit.false_claims)
        assert all(claim.holds(sample.scene) for claim in edit.claims if claim not in edit.false_claims)


def test_a_relation_or_the_order_of_its_objects_is_one_claim() -> None:
    for skill in ("position", "spatial_relation", "coreference", "nested_relation"):
        for sample, edit in edited(skill):
            if edit.kind in ("relation", "objects"):
                assert len(edit.false_claims) == 1
                assert sum(a != b for a, b in zip(sample.claims, edit.claims, strict=True)) == 1


def test_the_detector_refuses_the_edit_for_the_original_picture() -> None:
    for skill in ALL_SKILLS:
        for sample, edit in edited(skill, 2):
            picture = render(sample.scene, 64)
            assert all(judge(picture, sample.claims))
            assert not any(judge(picture, edit.false_claims)), edit


@pytest.mark.parametrize("kind", ["color", "shape", "part", "background", "size"])
def test_a_value_is_one_word(kind: str) -> None:
    for sample, edit in (pair for skill in SKILLS for pair in edited(skill, 8) if pair[1].kind == kind):
        # Articles follow the next word, and wordings after a noun are longer.
        old, new = (re.sub(r"\ban?\b", "a", text.lower()) for text in (sample.caption, edit.caption))
        for long, short in (("drawn as a outline", "P"), ("with stripes", "P"), ("that is filled", "P")):
            old, new = old.replace(long, short), new.replace(long, short)
        words, others = re.findall(r"\w+", old), re.findall(r"\w+", new)
        assert len(words) == len(others)
        changed = {pair for pair in zip(words, others, strict=True) if pair[0] != pair[1]}
        # A noun may stand in the singular and in the plural.
        assert len(changed) <= (2 if kind == "shape" else 1), (old, new)


def test_every_sort_of_claim_is_edited() -> None:
    kinds = Counter(edit.kind for skill in ALL_SKILLS for _, edit in edited(skill, 8))
    assert set(kinds) == set(EDIT_KINDS)
    assert all(count >= 5 for count in kinds.values()), kinds


def test_articles_fit() -> None:
    for skill in ALL_SKILLS:
        for sample, edit in edited(skill, 5):
            assert _with_articles(sample.caption) == sample.caption
            for word, first in re.findall(r"\b([Aa]n?) (\w)", edit.caption):
                assert (len(word) == 2) == (first in "aeiou"), edit.caption


def test_number_and_noun_agree() -> None:
    for sample, edit in (pair for skill in ("counting", "two_object", "scene") for pair in edited(skill)):
        for number, words in re.findall(
            r"\b(a|one|two|three|four|five|six) ((?:[a-z]+ )??(?:circle|star|heart)s?)\b", edit.caption
        ):
            assert words.endswith("s") == (number not in ("a", "one")), (sample.caption, edit.caption)


def test_an_edit_does_not_deny_what_it_asserts() -> None:
    for sample, edit in edited("negation", 60):
        match = re.search(
            r"(two|three|one|an?) (\w+) (\w+?)(?:es|s)? (?:and no|but no|without any) (\w+?)(?:es|s)?$", edit.caption
        )
        assert not match or match[3] != match[4], (sample.caption, edit.caption)
