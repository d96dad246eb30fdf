"""The counterfactual: what changes where the gate sees another time than the backbone (paper, table 3, eq. 11)."""

import numpy as np
import torch
from numpy.typing import NDArray

from ..fusion.timestep_map import TimestepMap, advanced
from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import DASHES, OKABE_ITO, Drawing, panels
from .base import FINE_TIMES, Analysis, Subject, Table, on_time
from .effective_time import fine_energy
from .pictures import draw_pictures, paired_change, share_correct
from .trajectory import METHODS, TrajectoryAnalysis, measured_map

NONE = "none"


class Shift(Analysis):
    """Sampling with the gate's time advanced, by eq. 11 and by the measured effective time."""

    name = "shift"
    title = "Sampling with the gate's time shifted"
    needs = "sampling"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Models whose gate sees the time."""
        return on_time(strategy)

    def maps(self, subject: Subject) -> dict[str, TimestepMap | None]:
        """The maps that are compared, by name."""
        options = subject.options
        times = subject.result(TrajectoryAnalysis())["effective_time"]
        measured = {f"measured, {method}": measured_map(times, options.guidance, method) for method in METHODS}
        return {
            NONE: None,
            f"eq. 11, A = {options.amplitude:g}": advanced(options.amplitude, *options.window),
            **measured,
        }

    def compute(self, subject: Subject) -> Arrays:
        """`gate_time` of each map; how far images move (`difference`), their `fine_detail` and `correct` share."""
        maps = self.maps(subject)
        guidance = subject.options.guidance
        ends = {name: subject.samples(guidance, timestep_map) for name, timestep_map in maps.items()}
        gate_times = [_gate_times(timestep_map) for timestep_map in maps.values()]
        by_map: dict[str, Coordinates] = {"map": list(maps)}
        moved = [float((end - ends[NONE]).square().mean().sqrt()) for end in ends.values()]
        detail = [float(fine_energy(end).mean()) for end in ends.values()]
        arrays = {
            "gate_time": NamedArray(np.array(gate_times), {**by_map, "flow_time": FINE_TIMES.tolist()}),
            "difference": NamedArray(np.array(moved), by_map),
            "fine_detail": NamedArray(np.array(detail), by_map),
        }
        correct = [subject.correct(end) for end in ends.values()]
        if correct[0] is not None:
            values = np.array(correct, dtype=np.float64)
            arrays["correct"] = NamedArray(values, {**by_map, "image": range(values.shape[1])})
        return arrays

    def tables(self, arrays: Arrays, subject: Subject) -> list[Table]:
        """One row a map."""
        header = ["gate's time", "rms change of images", "fine detail"]
        judged = "correct" in arrays
        if judged:
            header += ["correct", "change"]
        rows = []
        for name in arrays["difference"].axes["map"]:
            row = [str(name), f"{arrays['difference'].at(map=name):.4f}", f"{arrays['fine_detail'].at(map=name):.4f}"]
            if judged:
                correct = arrays["correct"]
                row += [share_correct(correct.at(map=name)), paired_change(correct.at(map=name), correct.at(map=NONE))]
            rows.append(row)
        caption = (
            f"{len(subject.prompts)} prompts at guidance {subject.options.guidance:g}, the same noise in each row, "
            "± one standard error. Change of images is root mean square, in latent units; fine detail is the energy of "
            "the final latents' diagonal detail."
        )
        if judged:
            caption += " Correct: the detector finds all that the prompt claims."
        return [Table(caption, header, rows)]

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """The maps, and images made with them."""
        guidance = subject.options.guidance
        ends = {name: subject.samples(guidance, points) for name, points in self.maps(subject).items()}
        pictures = draw_pictures(subject, ends, "pictures", "Samples by the time that the router's gate sees")
        return [draw_maps(arrays["gate_time"]), pictures]


def draw_maps(gate_time: NamedArray) -> Drawing:
    """The time that the gate sees over the backbone's."""
    figure, axes = panels(1, 1, 3.6, 2.8)
    for number, name in enumerate(gate_time.axes["map"]):
        axes[0].plot(
            gate_time.numbers("flow_time"),
            gate_time.at(map=name),
            color="black" if name == NONE else OKABE_ITO[number - 1],
            linestyle=DASHES[number],
            label=name,
        )
    axes[0].set_xlabel("flow time t (0 noise, 1 data)")
    axes[0].set_ylabel("time that the gate sees")
    axes[0].legend()
    return Drawing("maps", figure, "The flow time that the router's gate sees against that of the backbone.")


def _gate_times(timestep_map: TimestepMap | None) -> NDArray[np.float64]:
    if timestep_map is None:
        return FINE_TIMES
    timesteps = torch.tensor(1000 * (1 - FINE_TIMES), dtype=torch.float32)
    return 1 - timestep_map(timesteps).double().numpy() / 1000
