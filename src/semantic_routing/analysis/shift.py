"""The counterfactual: what changes where the fusion sees another time than the backbone (paper, eq. 11, table 3)."""

import numpy as np
import torch
from numpy.typing import NDArray

from ..fusion.timestep_map import GateTime, paper_shift
from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import DASHES, OKABE_ITO, Figure, panels
from ..reporting.table import Table
from .base import ANALYSES, FLOW_TIME, Analysis
from .effective_time import fine_energy
from .layer_weights import FINE_TIMES
from .model import SavedModel
from .pictures import draw_pictures, paired_change, share_correct
from .trajectory import METHODS, measured_map

NONE = "none"


@ANALYSES.register("shift")
class Shift(Analysis):
    """Sampling with the fusion's time advanced, by eq. 11 and by the measured effective time."""

    title = "Sampling with the fusion's time shifted"
    needs = "a fusion that varies with the timestep"
    samples = True
    hosts = False

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Models whose fusion sees the time."""
        return "timestep" in model.varies_with

    def maps(self, model: SavedModel) -> dict[str, GateTime | None]:
        """The maps that are compared, by name."""
        times, amplitude = model.result("trajectory")["effective_time"], model.options.amplitude
        measured = {f"measured, {method}": measured_map(times, model.guidance, method) for method in METHODS}
        return {NONE: None, f"eq. 11, A = {amplitude:g}": paper_shift(amplitude), **measured}

    def compute(self, model: SavedModel) -> Arrays:
        """`gate_time` of each map; how far images move (`difference`), their `fine_detail` and `correct` share."""
        maps = self.maps(model)
        guidance = model.guidance
        ends = {name: model.samples(guidance, timestep_map) for name, timestep_map in maps.items()}
        gate_times = [_gate_times(timestep_map) for timestep_map in maps.values()]
        by_map: dict[str, Coordinates] = {"map": list(maps)}
        moved = [float((end - ends[NONE]).square().mean().sqrt()) for end in ends.values()]
        detail = [float(fine_energy(end).mean()) for end in ends.values()]
        arrays = {
            "gate_time": NamedArray(np.array(gate_times), {**by_map, "flow_time": FINE_TIMES.tolist()}),
            "difference": NamedArray(np.array(moved), by_map),
            "fine_detail": NamedArray(np.array(detail), by_map),
        }
        correct = [model.correct(end) for end in ends.values()]
        if correct[0] is not None:
            values = np.array(correct, dtype=np.float64)
            arrays["correct"] = NamedArray(values, {**by_map, "image": range(values.shape[1])})
        return arrays

    def tables(self, arrays: Arrays, model: SavedModel) -> list[Table]:
        """One row a map."""
        header = ["fusion's time", "rms change of images", "fine detail"]
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
            f"{len(model.prompts)} prompts at guidance {model.guidance:g}, the same noise in each row, "
            "± one standard error. Change of images is root mean square, in latent units; fine detail is the energy of "
            "the final latents' diagonal detail."
        )
        if judged:
            caption += " Correct: the detector finds all that the prompt claims."
        return [Table(header, rows, caption)]

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """The maps, and images made with them."""
        guidance = model.guidance
        ends = {name: model.samples(guidance, points) for name, points in self.maps(model).items()}
        pictures = draw_pictures(model, ends, "pictures", "Samples by the time that the fusion sees")
        return [draw_maps(arrays["gate_time"]), pictures]


def draw_maps(gate_time: NamedArray) -> Figure:
    """The fusion's time over the backbone's, and how far it is ahead."""
    canvas, axes = panels(1, 2, 2.8)
    along = gate_time.numbers("flow_time")
    for number, name in enumerate(gate_time.axes["map"]):
        color, dash = "black" if name == NONE else OKABE_ITO[number - 1], DASHES[number]
        axes[0].plot(along, gate_time.at(map=name), color=color, ls=dash, label=str(name))
        axes[1].plot(along, gate_time.at(map=name) - along, color=color, ls=dash)
    axes[0].set(xlabel=FLOW_TIME, ylabel="time that the fusion sees")
    axes[1].set(xlabel=FLOW_TIME, ylabel="that time − t")
    axes[0].legend()
    caption = "The flow time that the fusion sees against that of the backbone, and how far it is ahead."
    return Figure("maps", canvas, caption)


def _gate_times(timestep_map: GateTime | None) -> NDArray[np.float64]:
    if timestep_map is None:
        return FINE_TIMES
    timesteps = torch.tensor(1000 * (1 - FINE_TIMES), dtype=torch.float32)
    return 1 - timestep_map(timesteps).double().numpy() / 1000
