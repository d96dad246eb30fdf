"""Fusion weights of a model over flow time, block and layer, whatever its fusion varies with.

Without variation by token and state they come from the fusion alone. By token they are a mean over the real tokens of
each prompt, then over prompts. By state they are recorded while the prompts are sampled, and interpolated in time.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ..fusion import Moment, Prepared, TextFusion
from ..reporting.arrays import Coordinates, NamedArray
from .statistics import normalized

if TYPE_CHECKING:
    from .model import SavedModel

FINE_TIMES: NDArray[np.float64] = np.linspace(0, 1, 21).round(6)
"""The paper's 21 times (fig. 9), 0.05 apart."""

TimesBlocksLayers = Float[np.ndarray, "times blocks layers"]


def layer_weights(model: "SavedModel") -> NamedArray | None:
    """Weights at `FINE_TIMES`, without the axes flow_time or block where they are the same along them.

    None where the fusion has no layer weights, or the model no fusion.
    """
    fusion = model.fusion
    if fusion is None:
        return None
    if "state" in fusion.varies_with:
        values = weights_while_sampling(model, model.running_fusion)
    elif "token" in fusion.varies_with:
        values = weights_of_prompts(model, model.running_fusion)
    else:
        values = weights_at(fusion, FINE_TIMES)
    if values is None:
        return None
    axes: dict[str, Coordinates] = {}
    if fusion.varies_with & {"timestep", "state"}:
        axes["flow_time"] = FINE_TIMES.tolist()
    if fusion.varies_with & {"block", "state"}:  # every block has a state of its own
        axes["block"] = range(fusion.sizes.num_blocks)
    axes["layer"] = model.layers
    return NamedArray(values.reshape([len(coordinates) for coordinates in axes.values()]), axes)


@torch.no_grad()
def weights_at(
    fusion: TextFusion, flow_times: NDArray[np.float64], prepared: Prepared | None = None
) -> TimesBlocksLayers | None:
    """Weights at flow times, averaged over the prompts of `prepared`; at the first one alone without time."""
    device = next((parameter.device for parameter in fusion.parameters()), None)
    rows = []
    for time in flow_times if "timestep" in fusion.varies_with else flow_times[:1]:
        timestep = torch.tensor([1000 * (1 - time)], dtype=torch.float32, device=device)
        weights = fusion.layer_weights(prepared, Moment(timestep))
        if weights is None:
            return None
        by_row = mean_over_tokens(weights, prepared.mask if prepared else None)
        rows.append(mean_over_readers(fusion, by_row).mean(1))
    return torch.stack(rows).double().cpu().numpy()


def weights_of_prompts(model: "SavedModel", fusion: TextFusion) -> TimesBlocksLayers | None:
    """Weights of a fusion that reads the text, averaged over the model's prompts."""
    return weights_at(fusion, FINE_TIMES, fusion.prepare(*model.features(model.prompts)))


def weights_while_sampling(model: "SavedModel", fusion: TextFusion) -> TimesBlocksLayers | None:
    """Weights of a fusion that reads the image, averaged over the model's prompts, at `FINE_TIMES`."""
    seen: dict[int, list[Tensor]] = defaultdict(list)  # by block, a call a step, batch after batch

    def see(prepared: Prepared, moment: Moment) -> None:
        weights = fusion.layer_weights(prepared, moment)
        if weights is not None:
            by_row = mean_over_readers(fusion, mean_over_tokens(weights, prepared.mask))[0]
            # The prompts' rows are the last: guidance puts the unconditional ones first.
            of_prompts = by_row[len(by_row) // 2 :] if model.guidance > 1 else by_row
            seen[moment.block or 0].append(of_prompts.double().cpu())

    with watching(fusion, see):
        model.samples_of(model.pipeline, model.guidance)
    if not seen:
        return None
    times = 1 - model.pipeline.scheduler.sigmas[:-1].double().cpu().numpy()
    by_block = [[torch.cat(calls[step :: len(times)]).mean(0) for step in range(len(times))] for calls in seen.values()]
    recorded = torch.stack([torch.stack(steps) for steps in by_block], dim=1).numpy()
    return np.apply_along_axis(lambda values: np.interp(FINE_TIMES, times, values), 0, recorded)


@contextmanager
def watching(fusion: TextFusion, see: Callable[[Prepared, Moment], None]) -> Iterator[None]:
    """Calls `see` with what the fusion is called with."""

    def hook(_: TextFusion, inputs: tuple[Prepared, Moment]) -> None:
        see(*inputs)

    handle = fusion.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def mean_over_tokens(
    weights: Float[Tensor, "blocks #batch #text_tokens layers"], mask: Bool[Tensor, "batch text_tokens"] | None
) -> Float[Tensor, "blocks rows layers"]:
    """Mean over the real tokens of each prompt; `rows` is 1 where weights are the same for all prompts."""
    if mask is None or weights.shape[2] == 1:
        return weights.mean(2)
    share = mask / mask.sum(1, keepdim=True)
    return torch.einsum("dbtl,bt->dbl", weights.float().expand(-1, len(mask), -1, -1), share)


def mean_over_readers(
    fusion: TextFusion, weights: Float[Tensor, "readers *rows layers"]
) -> Float[Tensor, "blocks *rows layers"]:
    """Mean over the contexts that a block reads, where keys and values, or heads, read different ones."""
    return weights.unflatten(0, (-1, math.prod(fusion.readers))).mean(1)  # type: ignore[no-untyped-call]


def marginals(weights: NamedArray) -> dict[str, NamedArray]:
    """Distributions over layers by block and by flow_time, each averaged over the other (paper, app. C.2)."""
    axes = [axis for axis in ("block", "flow_time") if axis in weights.axes]
    found: dict[str, NamedArray] = {}
    for axis in axes:
        others = tuple(number for number, name in enumerate(weights.axes) if name not in (axis, "layer"))
        values = normalized(weights.values.mean(others))
        found[axis] = NamedArray(values, {axis: weights.axes[axis], "layer": weights.axes["layer"]})
    return found
