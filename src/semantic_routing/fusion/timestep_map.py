"""The time that a fusion sees, where it is not the backbone's (paper, eq. 11)."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

GateTime = Callable[[Float[Tensor, " batch"]], Float[Tensor, " batch"]]
"""From the backbone's timesteps to those that the fusion sees."""

SHIFT_START, SHIFT_SPAN = 0.2, 0.8  # flow times of eq. 11


class TimestepMap:
    """Gate timestep over timestep, linear between points and constant outside of them.

    Args:
        points: (timestep, gate timestep), both in [0, 1000]; the first of each pair must all differ.

    Raises:
        ValueError: there is no point, or a time is out of range or comes twice.
    """

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        if not points or any(len(point) != 2 for point in points):
            raise ValueError("A timestep map needs at least one point [timestep, gate timestep].")
        self.points = tuple(sorted((float(time), float(gate_time)) for time, gate_time in points))
        outside = [time for point in self.points for time in point if not 0 <= time <= 1000]
        if outside:
            raise ValueError(f"Times of a timestep map lie in [0, 1000], not at {outside[0]:g}.")
        times = [time for time, _ in self.points]
        if len(set(times)) < len(times):
            raise ValueError(f"A timestep map has one gate time for each timestep, but {len(times)} points share some.")

    def __call__(self, timestep: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The gate's timestep."""
        timestep = timestep.float()
        times, gate_times = torch.tensor(self.points, device=timestep.device).T.contiguous()
        if len(times) == 1:
            return gate_times.expand(timestep.shape)
        right = torch.searchsorted(times, timestep.contiguous()).clamp(1, len(times) - 1)
        share = ((timestep - times[right - 1]) / (times[right] - times[right - 1])).clamp(0, 1)
        return torch.lerp(gate_times[right - 1], gate_times[right], share)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimestepMap) and self.points == other.points

    def __hash__(self) -> int:
        return hash(self.points)


@cache
def paper_shift(amplitude: float = 0.01) -> GateTime:
    """The paper's eq. 11: t' = t + A (1 − cos(π (t − 0.2) / 0.8)) for flow times t in (0.2, 1], else t' = t.

    The advance grows to 2 A at t = 1 and is not clamped: past t' = 1 the gate extrapolates. One amplitude always gives
    the same function.

    Args:
        amplitude: A, in flow time; below 0 the gate lags.

    Raises:
        ValueError: the gate's time would run backwards.
    """
    if amplitude < -SHIFT_SPAN / math.pi:
        raise ValueError(
            f"An amplitude of {amplitude:g} would turn the gate's time back; at least {-SHIFT_SPAN / math.pi:.3f} goes."
        )

    def gate_time(timestep: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        timestep = timestep.float()
        inside = (1 - timestep / 1000 - SHIFT_START).clamp(min=0) / SHIFT_SPAN
        return timestep - 1000 * amplitude * (1 - torch.cos(math.pi * inside))

    return gate_time
