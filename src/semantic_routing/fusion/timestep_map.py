"""The time that the router's gate sees, where it is not the backbone's (paper, eq. 11)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

POINTS = 101


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


def advanced(amplitude: float, start: float = 0.0, end: float = 1.0) -> TimestepMap:
    """The gate runs ahead by a smooth bump, t + A sin²(π (t − a) / (b − a)) inside the window [a, b] of flow time.

    It stands for the paper's eq. 11, a shift of the gate's time in the middle of sampling, whose exact form it does not
    claim to have.

    Args:
        amplitude: A, the largest advance, in flow time; below 0 the gate lags.
        start: a, where the window begins, in flow time.
        end: b, where it ends.

    Raises:
        ValueError: the window is empty or leaves [0, 1], or the gate's time would run backwards.
    """
    if not 0 <= start < end <= 1:
        raise ValueError(f"The window must lie in 0 to 1 and not be empty, not {start:g} to {end:g}.")
    if abs(amplitude) * math.pi > end - start:
        raise ValueError(
            f"An amplitude of {amplitude:g} in a window of {end - start:g} would turn the gate's time back; "
            f"at most {(end - start) / math.pi:.3f} goes."
        )
    points = []
    for number in range(POINTS):
        time = number / (POINTS - 1)
        inside = (time - start) / (end - start)
        advance = amplitude * math.sin(math.pi * inside) ** 2 if 0 < inside < 1 else 0.0
        points.append((1000 * (1 - time), 1000 * (1 - min(max(time + advance, 0.0), 1.0))))
    return TimestepMap(points)


def paper_shift() -> TimestepMap:
    """The paper's shift of the gate's time: t' = t + 0.01 (1 − cos(π (t − 0.2) / 0.8)) for flow time t in (0.2, 1].

    Paper, eq. 11. The gate is at most 0.02 ahead, at the end, where its time is cut off at 1.
    """
    times = [number / (POINTS - 1) for number in range(POINTS)]
    shifted = [t + 0.01 * (1 - math.cos(math.pi * (t - 0.2) / 0.8)) if t > 0.2 else t for t in times]
    return TimestepMap([(1000 * (1 - t), 1000 * max(1 - gate, 0.0)) for t, gate in zip(times, shifted, strict=True)])
