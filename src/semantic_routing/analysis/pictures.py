"""Samples side by side, and shares of correct ones."""

import textwrap
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..reporting.figures import WIDTH, Figure, panels, signed
from .model import SavedModel
from .samples import Latents, decode

SHOWN = 8


def draw_pictures(model: SavedModel, ends: Mapping[str, Latents], name: str, what: str) -> Figure:
    """A row a variant and a column a prompt; columns are spread over the prompts, and start from the same noise."""
    count = min(SHOWN, len(model.prompts))
    columns = [number * len(model.prompts) // count for number in range(count)]
    canvas, axes = panels(len(ends), count, min(WIDTH / count, 1.2) + 0.15)
    for row, (variant, latents) in enumerate(ends.items()):
        pictures = decode(model.pipeline, latents[columns])
        for place, picture, column in zip(axes[row * count :], pictures, columns, strict=False):
            place.imshow(picture, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
            place.spines[:].set_visible(False)
            if row == 0:
                place.set_title(textwrap.fill(textwrap.shorten(model.prompts[column], 60), 17), fontsize=5)
        axes[row * count].set_ylabel(textwrap.fill(variant, 14), fontsize=6)
    caption = f"{what}, at guidance {model.guidance:g}; images of a column start from the same noise."
    return Figure(name, canvas, caption)


def share_correct(correct: NDArray[np.float64]) -> str:
    """The share of correct images, with its binomial standard error, in per cent."""
    share = correct.mean()
    error = np.sqrt(share * (1 - share) / len(correct))
    return f"{100 * share:.1f} ± {100 * error:.1f} %".replace(" ", "\u00a0")


def paired_change(correct: NDArray[np.float64], base: NDArray[np.float64]) -> str:
    """Change of the share against the same prompts and noise in another variant, with its standard error."""
    difference = correct - base
    error = difference.std() / np.sqrt(len(difference))
    return f"{signed(100 * difference.mean(), 1)} ± {100 * error:.1f} %".replace(" ", "\u00a0")
