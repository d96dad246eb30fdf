"""Samples side by side, and shares of correct ones."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..reporting.figures import Figure, raster, signed
from ..reporting.picture_grid import Row, picture_grid
from .model import SavedModel
from .samples import Latents

SHOWN = 8


def draw_pictures(model: SavedModel, ends: Mapping[str, Latents], name: str, what: str) -> Figure:
    """A row a variant and a column a prompt; columns are spread over the prompts, and start from the same noise."""
    count = min(SHOWN, len(model.prompts))
    columns = [number * len(model.prompts) // count for number in range(count)]
    rows: list[Row] = []
    for variant, latents in ends.items():
        pictures = [Image.fromarray(picture) for picture in model.pictures(latents[columns])]
        rows.append(Row(pictures, variant, () if rows else [model.prompts[column] for column in columns]))
    caption = f"{what}, at guidance {model.guidance:g}; images of a column start from the same noise."
    return Figure(name, raster(picture_grid(rows)), caption)


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
