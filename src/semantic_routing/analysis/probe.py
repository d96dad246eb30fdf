"""How well each claim of a caption can be read from each layer of a language model; no diffusion model is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..fusion.combine import normalize
from ..reporting.arrays import Arrays, NamedArray, write_arrays
from ..reporting.figures import WIDTH, Figure, label_cells, save, style
from ..reporting.table import Table
from ..text import TextEncoder, load_language_model, load_tokenizer
from .facts import CLAIM_TYPES, ROLES, Said, facts_of
from .ridge import FOLDS, Stack, accuracy, best_mix

MEAN, MIX = "mean", "mix"


class Read(NamedTuple):
    """Features of facts at one role, with the number of each fact's label and of its caption."""

    stack: Stack
    labels: Tensor
    captions: Tensor


def probe(
    model: str,
    claims: Sequence[str] = (),
    count: int = 800,
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int = 100,
) -> Arrays:
    """`accuracy` by role, claim and layer, `chance`, and the `weights` of the best convex mix.

    Layer 0 is the token embeddings; `mean` and `mix` are of the others, normalized as fusions normalize them. Chance is
    the share of the most frequent class. What has no such word, or only one class, is not a number.

    Args:
        model: folder, hub name or `package:NAME` of a language model.
        claims: of `facts.CLAIM_TYPES`; none are all.
        count: captions a claim.
        device: where the language model runs; None is cuda where there is one.
        dtype: of its weights.
        batch_size: captions at a time.

    Raises:
        ValueError: an unknown claim, fewer captions than a claim has classes, or no such model.
    """
    chosen = list(claims or CLAIM_TYPES)
    said = {claim: facts_of(claim, count) for claim in chosen}
    for claim in chosen:
        check_enough(claim, said[claim])
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    language_model = load_language_model(model, getattr(torch, dtype))
    torch.nn.Module.to(language_model, target)
    layers = list(range(language_model.config.num_hidden_layers + 1))
    encoder = TextEncoder(language_model, load_tokenizer(model), layers)
    columns = [*map(str, layers), MEAN, MIX]
    right = np.full((len(ROLES), len(chosen), len(columns)), np.nan)
    chance = np.full((len(ROLES), len(chosen)), np.nan)
    weights = np.full((len(ROLES), len(chosen), len(layers) - 1), np.nan)
    for j, claim in enumerate(track(chosen, "probing", console=Console(stderr=True))):
        for i, read in enumerate(read_roles(encoder, said[claim], batch_size)):
            if read is None:
                continue
            stack, labels, captions = read
            chance[i, j] = labels.bincount().max() / len(labels)
            single = [accuracy(stack[:, layer], labels, captions) for layer in layers]
            mix = best_mix(stack[:, 1:], labels, captions)
            right[i, j] = [*single, accuracy(stack[:, 1:].mean(1), labels, captions), mix.accuracy]
            weights[i, j] = mix.weights.numpy()
    places = {"role": list(ROLES), "claim": chosen}
    return {
        "accuracy": NamedArray(right, {**places, "layer": columns}),
        "chance": NamedArray(chance, places),
        "weights": NamedArray(weights, {**places, "layer": columns[1 : len(layers)]}),
    }


def check_enough(claim: str, said: Said) -> None:
    """Refuses fewer captions than classes."""
    classes = len({fact.label for _, fact in said.facts})
    least = FOLDS * max(classes, 2)
    if len(said.captions) < least:
        raise ValueError(
            f"A probe of {claim!r} needs {least} captions or more, {FOLDS} for each of its {classes} classes, "
            f"not {len(said.captions)}."
        )


def read_roles(encoder: TextEncoder, said: Said, batch_size: int) -> list[Read | None]:
    """Features of all facts at each role; None where fewer than two classes have that role.

    The last token and the mean stand for the first fact of each caption.
    """
    first = dict(reversed(said.facts))
    found: dict[str, list[tuple[Tensor, str, int]]] = {role: [] for role in ROLES}
    for start in range(0, len(said.captions), batch_size):
        batch = said.captions[start : start + batch_size]
        hidden_states, mask = encoder(batch)
        normalized = normalize(hidden_states.float()).cpu()
        for row, caption in enumerate(batch):
            number, length = start + row, int(mask[row].sum())
            tokens = encoder.tokenizer(caption)
            features = normalized[row, :, :length]
            for fact in (fact for owner, fact in said.facts if owner == number):
                for role, place in (("word", fact.word), ("object", fact.object)):
                    if place is not None:
                        found[role].append((features[:, tokens.char_to_token(place)], fact.label, number))
            label = first[number].label
            found["last"].append((features[:, -1], label, number))
            found["mean"].append((features.mean(1), label, number))
    return [_as_read(entries) for entries in found.values()]


def _as_read(entries: Sequence[tuple[Tensor, str, int]]) -> Read | None:
    classes = sorted({label for _, label, _ in entries})
    if len(classes) < 2:
        return None
    labels = torch.tensor([classes.index(label) for _, label, _ in entries])
    stack = torch.stack([features for features, _, _ in entries])
    return Read(stack, labels, torch.tensor([number for _, _, number in entries]))


def above_chance(arrays: Arrays) -> np.ndarray:
    """0 for guessing and 1 for always right, in the shape of `accuracy`."""
    chance = arrays["chance"].values[..., None]
    share: np.ndarray = (arrays["accuracy"].values - chance) / (1 - chance)
    return share


def tables(arrays: Arrays) -> list[Table]:
    """A table a role: accuracy in per cent, a line a claim and a column a layer."""
    columns = list(map(str, arrays["accuracy"].axes["layer"]))
    found = []
    for role, meaning in ROLES.items():
        rows = []
        for claim in arrays["accuracy"].axes["claim"]:
            place = {"role": role, "claim": claim}
            if not np.isnan(arrays["chance"].at(**place)):
                numbers = [arrays["chance"].at(**place), *arrays["accuracy"].at(**place)]
                rows.append([str(claim), *(f"{100 * float(number):.0f}" for number in numbers)])
        caption = f"Per cent right, read at {meaning}; cross-validated."
        found.append(Table(["claim", "chance", *columns], rows, caption, f"Read at {meaning}"))
    return found


def draw(arrays: Arrays) -> Figure:
    """A heat map a role: layers across, claims down."""
    from matplotlib.figure import Figure as Canvas

    shares, right = above_chance(arrays), arrays["accuracy"].values
    claims, columns = arrays["accuracy"].axes["claim"], arrays["accuracy"].axes["layer"]
    canvas = Canvas(figsize=(WIDTH, 0.4 * len(claims) + 1.8), layout="constrained")
    axes = canvas.subplots(2, 2, sharex=True, sharey=True).flat
    for i, (place, (role, meaning)) in enumerate(zip(axes, ROLES.items(), strict=True)):
        cells = place.imshow(np.clip(shares[i], 0, 1), cmap="viridis", vmin=0, vmax=1, aspect="auto")
        place.set_title(f"{role}: {meaning}")
        # Of many layers every so many has its number; the mean and the mixture stand at the end, upright.
        every = -(-len(columns) // 12)
        places = [*range(0, len(columns) - 2, every), len(columns) - 2, len(columns) - 1]
        place.set_xticks(places, [str(columns[column]) for column in places], rotation=90 if every > 1 else 0)
        label_cells(place, "y", claims, 40)
        place.axvline(len(columns) - 2.5, color="white", linewidth=2)
        if len(columns) <= 16:
            for (row, column), number in np.ndenumerate(right[i]):
                if not np.isnan(number):
                    color = "white" if shares[i, row, column] < 0.6 else "black"
                    place.text(column, row, f"{100 * number:.0f}", ha="center", va="center", fontsize=5.5, color=color)
    canvas.colorbar(cells, ax=canvas.axes, label="above chance: 0 guessed, 1 always right")
    caption = (
        "What a ridge probe reads of a caption's claims from each layer of the language model (0: embeddings), from "
        "their mean and from their best convex mixture. Numbers are per cent right, cross-validated by caption; colors "
        "are shares of what is above chance. White: no such word, or one class only."
    )
    return Figure("probe", canvas, caption)


def write(arrays: Arrays, out: Path) -> list[Path]:
    """The numbers as JSON and CSV, and the heat map as PNG and SVG."""
    out.mkdir(parents=True, exist_ok=True)
    paths = write_arrays(arrays, out, "probe")
    with style():
        return [*paths, *save(draw(arrays), out)]
