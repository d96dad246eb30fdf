"""A probe reads what is there and nothing else, finds the layers that say it, and its facts are what captions say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_routing.analysis.facts import CLAIM_TYPES, facts_of
from semantic_routing.analysis.probe import probe, tables, write
from semantic_routing.analysis.ridge import accuracy, best_mix, folds, ridge_scores
from semantic_routing.scenes import COLORS
from semantic_routing.scenes.words import NUMBERS


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.randint(4, (400,), generator=torch.Generator().manual_seed(1))
CAPTIONS = torch.arange(400) // 2


@pytest.mark.parametrize("channels", [8, 500])  # solved over channels, and over facts
def test_a_ridge_regression_is_the_least_squares_solution_when_its_penalty_vanishes(channels: int) -> None:
    x = noise(60, channels).double()
    targets = x @ noise(channels, 3, seed=1).double() + 2
    assert torch.allclose(ridge_scores(x, targets, x, 1e-12), targets, atol=1e-5)
    far = ridge_scores(x, targets, x, 1e9)  # all but the mean is shrunk away
    assert torch.allclose(far, targets.mean(0).expand_as(far), atol=1e-3)


@pytest.mark.parametrize("channels", [8, 500])
def test_a_probe_reads_what_is_there_and_nothing_else(channels: int) -> None:
    directions = noise(4, channels, seed=2)
    assert accuracy(noise(400, channels) + 3 * directions[LABELS], LABELS, CAPTIONS) > 0.95
    assert accuracy(noise(400, channels), LABELS, CAPTIONS) < 0.4


def test_facts_of_one_caption_are_on_one_side_of_every_split() -> None:
    tested = []
    for fold in folds(CAPTIONS):
        sides = [set(CAPTIONS[rows].tolist()) for rows in fold]
        assert len(set.union(*sides)) == sum(map(len, sides))
        tested += fold.tested.tolist()
    assert sorted(tested) == list(range(400))


def test_the_best_mix_turns_to_the_layers_that_say_it() -> None:
    directions = noise(4, 8, seed=2)
    stack = 2 * noise(400, 3, 8)
    stack[:, 1] += 1.5 * directions[LABELS]
    mix = best_mix(stack, LABELS, CAPTIONS)
    assert mix.weights.sum() == pytest.approx(1)
    assert mix.weights.min() >= 0
    assert mix.weights.argmax() == 1
    assert mix.accuracy > accuracy(stack.mean(1), LABELS, CAPTIONS) + 0.05


@pytest.mark.parametrize("claim", CLAIM_TYPES)
def test_facts_point_at_words_of_the_caption(claim: str) -> None:
    said = facts_of(claim, 60)
    assert len(said.captions) == 60
    assert len({fact.label for _, fact in said.facts}) > 1
    for number, fact in said.facts:
        caption = said.captions[number]
        for place in (fact.word, fact.object):
            assert place is None or caption[place].isalnum()
            # The place is the end of its word.
            assert place is None or not caption[place + 1 : place + 2].isalpha()
        if claim in ("color", "background") and fact.word is not None:
            assert caption[: fact.word + 1].endswith(fact.label)
        if claim == "shape":
            assert caption[: (fact.object or 0) + 1].endswith(tuple(COLORS))


def test_a_relation_is_turned_for_its_anchor() -> None:
    said = facts_of("relation", 40)
    for (_, subject), (_, anchor) in zip(said.facts[::2], said.facts[1::2], strict=True):
        assert {subject.label, anchor.label} in ({"left", "right"}, {"above", "below"})
        assert (subject.object or 0) < (anchor.object or 0)


def test_a_pronoun_has_the_color_of_what_it_stands_for() -> None:
    said = facts_of("referent", 80)
    for number, fact in said.facts:
        caption = said.captions[number]
        named = [word.strip(";,") for word in caption.split() if word.strip(";,") in COLORS]
        pronoun = caption[: (fact.word or 0) + 1].split()[-1]
        assert fact.label == named[1 if pronoun in ("latter", "second") else 0]


def test_a_sum_is_what_the_caption_says() -> None:
    words = {word: number for number, word in enumerate(NUMBERS)}
    said = facts_of("sum", 60)
    for number, fact in said.facts:
        told = said.captions[number].split()
        first = words[told[0]]
        if "twice" in told:
            assert int(fact.label) == 2 * first
        else:
            sign = 1 if "more" in told else -1
            assert int(fact.label) == first + sign * words[told[3]]


def test_a_probe_of_a_language_model_writes_its_numbers_and_its_picture(
    language_models: Callable[[str], Path], tmp_path: Path
) -> None:
    arrays = probe(str(language_models("qwen3")), ["order", "negation"], count=16, device="cpu")
    assert arrays["accuracy"].axes["layer"] == ["0", "1", "2", "3", "4", "mean", "mix"]
    right = arrays["accuracy"].at(role="object")
    assert ((right >= 0) & (right <= 1)).all()
    assert np.isnan(arrays["accuracy"].at(role="word")).all()  # no word says them
    assert arrays["weights"].at(role="object").sum(-1) == pytest.approx(1)
    names = {path.name for path in write(arrays, tmp_path)}
    assert {"probe.png", "probe.svg", "probe.json", "probe-accuracy.csv", "probe-weights.csv"} <= names
    assert [row[0] for row in tables(arrays)[1].rows] == ["order", "negation"]


def test_too_few_captions_are_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(ValueError, match="'color' needs 40 captions or more, 4 for each of its 10 classes, not 30"):
        probe("no such model", ["color"], count=30)
    with pytest.raises(ValueError, match="Claim is 'mood'"):
        probe("no such model", ["mood"])
