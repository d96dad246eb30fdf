"""How well classes can be read from features by a linear probe: ridge regression with cross-validation."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 4
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties to choose from, as shares of the features' mean square norm."""
MIX_STEPS = 30
MIX_RATE = 0.5

Features = Float[Tensor, "facts channels"]
Stack = Float[Tensor, "facts layers channels"]


class Fold(NamedTuple):
    """Facts to fit a probe to, facts to choose with, and facts to test it on."""

    fitted: Int[Tensor, " fitted"]
    chosen: Int[Tensor, " chosen"]
    tested: Int[Tensor, " tested"]


def folds(captions: Int[Tensor, " facts"]) -> Iterator[Fold]:
    """Splits by caption, so that facts of one caption are never on both sides."""
    part = captions % FOLDS
    for number in range(FOLDS):
        choosing = part == (number + 1) % FOLDS
        tested = part == number
        yield Fold(*(mask.nonzero()[:, 0] for mask in (~choosing & ~tested, choosing, tested)))


def ridge_scores(
    fitted: Features, targets: Float[Tensor, "facts classes"], asked: Float[Tensor, "asked channels"], penalty: float
) -> Float[Tensor, "asked classes"]:
    """What a ridge regression on some facts says of others; features are centered, and classes are one-hot targets.

    It is solved over facts or over channels, whichever are fewer.
    """
    center, middle = fitted.mean(0), targets.mean(0)
    x, y, z = fitted - center, targets - middle, asked - center
    strength = penalty * x.square().sum(1).mean()
    if len(x) < x.shape[1]:
        gram = x @ x.T
        found = z @ (x.T @ torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=x.dtype), y))
    else:
        gram = x.T @ x
        found = z @ torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=x.dtype), x.T @ y)
    return found + middle


def best_penalty(features: Features, targets: Float[Tensor, "facts classes"], fold: Fold) -> float:
    """The penalty that reads the facts to choose with best from a fit to the others."""
    truth = targets[fold.chosen]

    def error(penalty: float) -> float:
        said = ridge_scores(features[fold.fitted], targets[fold.fitted], features[fold.chosen], penalty)
        return float((said - truth).square().mean())

    return min(PENALTIES, key=error)


def accuracy(features: Features, labels: Int[Tensor, " facts"], captions: Int[Tensor, " facts"]) -> float:
    """Cross-validated share of facts that the probe reads rightly."""
    return sum(_right(features, labels, fold) for fold in folds(captions)) / len(labels)


def _right(features: Features, labels: Int[Tensor, " facts"], fold: Fold) -> int:
    """How many facts of a fold's test are read rightly."""
    targets = torch.nn.functional.one_hot(labels).to(features.dtype)
    penalty = best_penalty(features, targets, fold)
    known = torch.cat([fold.fitted, fold.chosen])
    said = ridge_scores(features[known], targets[known], features[fold.tested], penalty)
    return int((said.argmax(1) == labels[fold.tested]).sum())


class Mix(NamedTuple):
    """The best convex mix of layers: its cross-validated accuracy and its weights, the mean over folds."""

    accuracy: float
    weights: Float[Tensor, " layers"]


def best_mix(stack: Stack, labels: Int[Tensor, " facts"], captions: Int[Tensor, " facts"]) -> Mix:
    """The mixture of layers, weights ≥ 0 with sum 1, that a ridge probe reads best.

    The weights descend the error on facts that the probe was not fitted to, through the solution of the regression;
    the facts that accuracy is measured on have no part in it.
    """
    right, weights = 0, []
    for fold in folds(captions):
        found = _descend(stack, torch.nn.functional.one_hot(labels).to(stack.dtype), fold)
        right += _right(torch.einsum("l,nlc->nc", found, stack), labels, fold)
        weights.append(found)
    return Mix(right / len(labels), torch.stack(weights).mean(0))


def _descend(stack: Stack, targets: Float[Tensor, "facts classes"], fold: Fold) -> Float[Tensor, " layers"]:
    """Weights of the mixture with the least error on the facts to choose with."""
    penalty = best_penalty(stack.mean(1), targets, fold)
    logits = torch.zeros(stack.shape[1], dtype=stack.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=MIX_RATE)
    for _ in range(MIX_STEPS):
        mixed = torch.einsum("l,nlc->nc", logits.softmax(0), stack)
        said = ridge_scores(mixed[fold.fitted], targets[fold.fitted], mixed[fold.chosen], penalty)
        optimizer.zero_grad()
        torch.autograd.backward((said - targets[fold.chosen]).square().mean())
        optimizer.step()
    return logits.detach().softmax(0)
