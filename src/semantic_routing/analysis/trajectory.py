"""Does sampling run ahead of the schedule that the fusion was trained on? (paper, section 5.2 and fig. 4)"""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..fusion.timestep_map import TimestepMap
from ..reporting.arrays import Arrays, Coordinate, NamedArray
from ..reporting.figures import DASHES, OKABE_ITO, Figure, panels, signed
from ..reporting.table import Table
from .base import ANALYSES, FLOW_TIME, Analysis
from .effective_time import forward_error, marginal_time, paired_time, psnr, sampling_error
from .layer_weights import FINE_TIMES
from .model import SavedModel

PROCESSES = ("sampling", "forward")
METHODS = ("paired", "marginal")
MIDDLE = (0.2, 0.8)
LAST = 0.97  # flow time up to which distances are drawn: beyond it both vanish

CONTROL = (
    "Read this figure against its control, guidance 1. A deterministic sampler's path stays close to its own end, so "
    "the paired time can be above t even where field, sampler and marginals are exact and nothing is guided: for a "
    "Gaussian of standard deviation 1 it is 0.79 at t = 0.5. Only what exceeds the control can be put down to "
    "guidance. The marginal time has no such offset: it is t wherever the marginals are right."
)


@ANALYSES.register("trajectory")
class TrajectoryAnalysis(Analysis):
    """The sampling trajectory and the forward process, both measured against the trajectory's own end."""

    title = "The sampling trajectory and its effective time"
    needs = "nothing"
    samples = True
    hosts = False

    @classmethod
    def applies_to(cls, model: SavedModel) -> bool:
        """Every model."""
        return True

    def compute(self, model: SavedModel) -> Arrays:
        """`mse` and `psnr` by guidance and process; `effective_time` and its `error` by guidance and method."""
        error, ratio, times, deviations = [], [], [], []
        scales = model.guidance_scales
        for guidance in scales:
            flow_times, states = model.trajectory(guidance)
            errors = [sampling_error(states), forward_error(states[-1], flow_times)]
            error.append([values.mean(1) for values in errors])
            with np.errstate(invalid="ignore"):
                ratio.append([psnr(values, states[-1]).mean(1) for values in errors])
            estimates = [paired_time(states), marginal_time(states, flow_times)]
            times.append([estimate.time for estimate in estimates])
            deviations.append([estimate.error for estimate in estimates])
        along = flow_times.round(6).tolist()
        by_process = {"guidance": scales, "process": PROCESSES, "flow_time": along}
        by_method = {"guidance": scales, "method": METHODS, "flow_time": along}
        return {
            "mse": NamedArray(np.array(error), by_process),
            "psnr": NamedArray(np.array(ratio), by_process),
            "effective_time": NamedArray(np.array(times), by_method),
            "error": NamedArray(np.array(deviations), by_method),
        }

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """How much of the advance remains above the control."""
        texts = [CONTROL]
        times, guidance = arrays["effective_time"], model.guidance
        for method in METHODS:
            control, guided = (mean_advance(times, scale, method) for scale in (1.0, guidance))
            texts.append(
                f"Mean {method} effective time minus t for t from {MIDDLE[0]} to {MIDDLE[1]}: {signed(control, 3)} "
                f"without guidance and {signed(guided, 3)} at guidance {guidance:g}, so {signed(guided - control, 3)} "
                "is guidance's."
            )
        return texts

    def tables(self, arrays: Arrays, model: SavedModel) -> list[Table]:
        """Effective time at t = 0.5."""
        times, error = arrays["effective_time"], arrays["error"]
        along = times.numbers("flow_time")
        middle = times.axes["flow_time"][int(np.abs(along - 0.5).argmin())]
        rows = []
        for guidance in times.axes["guidance"]:
            where = {"guidance": guidance, "flow_time": middle}
            values = [
                f"{times.at(method=method, **where):.3f} ± {error.at(method=method, **where):.3f}" for method in METHODS
            ]
            rows.append([f"{guidance:g}", *values])
        caption = f"Effective time where the sampler's is {middle:.3f}, ± standard error over images."
        return [Table(["guidance", *METHODS], rows, caption)]

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """Distances to the final latent, and effective times."""
        images = len(model.prompts)
        return [draw_distances(arrays, model.guidance, images), draw_effective_times(arrays, images)]


def mean_advance(times: NamedArray, guidance: float, method: str) -> float:
    """Mean of effective time minus t over the middle of sampling."""
    along = times.numbers("flow_time")
    middle = (along >= MIDDLE[0]) & (along <= MIDDLE[1])
    return float((times.at(guidance=guidance, method=method) - along)[middle].mean())


def measured_map(times: NamedArray, guidance: float, method: str) -> TimestepMap:
    """The map that shows the fusion the effective time in place of the sampler's; it never runs backwards."""
    along = times.numbers("flow_time")
    measured = np.maximum.accumulate(times.at(guidance=guidance, method=method))
    gate_times = np.interp(FINE_TIMES, along, measured).clip(0, 1)
    pairs = zip(FINE_TIMES, gate_times, strict=True)
    return TimestepMap([(1000 * (1 - float(t)), 1000 * (1 - float(gate))) for t, gate in pairs])


def draw_distances(arrays: Arrays, guidance: float, images: int) -> Figure:
    """The paper's fig. 4: MSE and PSNR to the final latent over flow time, of sampling and of the forward process."""
    canvas, axes = panels(1, 3, 2.6)
    mse, ratio = arrays["mse"], arrays["psnr"]
    along = mse.numbers("flow_time")
    shown = along < LAST
    for number, scale in enumerate(sorted({1.0, guidance})):
        for process, dash in zip(PROCESSES, DASHES, strict=False):
            label = f"{process}, guidance {_scale(scale)}"
            for place, array in zip(axes, (mse, ratio), strict=False):
                values = array.at(guidance=scale, process=process)[shown]
                place.plot(along[shown], values, color=_color(number), ls=dash, label=label)
        sampled, forward = (ratio.at(guidance=scale, process=process) for process in PROCESSES)
        axes[2].plot(along[shown], (sampled - forward)[shown], color=_color(number))
    axes[2].axhline(0, color="0.5", linewidth=0.7, linestyle=":")
    for place, label in zip(axes, ("latent MSE", "PSNR (dB)", "PSNR, sampling − forward (dB)"), strict=True):
        place.set(xlabel=FLOW_TIME, ylabel=label)
    handles, labels = axes[0].get_legend_handles_labels()
    canvas.legend(handles, labels, ncols=4, loc="outside upper center")
    caption = (
        "Mean squared error and PSNR against the trajectory's own final latent, of the sampling trajectory and of the "
        f"forward process that leads to that latent; means over {images} images. Sampling is ahead where its error is "
        "below that of the forward process at the same t, so where the right panel is above 0. The peak of PSNR is the "
        "range of values of each final latent. Guidance 1 is the control; other scales are in the files."
    )
    return Figure("distances", canvas, caption)


def draw_effective_times(arrays: Arrays, images: int) -> Figure:
    """Effective time over flow time above, its advance below, for both methods."""
    times, error = arrays["effective_time"], arrays["error"]
    canvas, axes = panels(2, 2, 2.1, sharex=True, sharey="row")
    along = times.numbers("flow_time")
    for column, method in enumerate(METHODS):
        above, below = axes[column], axes[2 + column]
        above.plot([0, 1], [0, 1], color="0.5", linewidth=0.7, linestyle=":")
        below.axhline(0, color="0.5", linewidth=0.7, linestyle=":")
        for number, guidance in enumerate(times.axes["guidance"]):
            values = times.at(guidance=guidance, method=method)
            band = error.at(guidance=guidance, method=method)
            _curve(above, along, values, number, guidance)
            _curve(below, along, values - along, number, guidance)
            below.fill_between(
                along, values - along - band, values - along + band, color=_color(number), alpha=0.2, linewidth=0
            )
        above.set_title(method)
        below.set_xlabel(FLOW_TIME)
    axes[0].set_ylabel("effective time")
    axes[2].set_ylabel("effective time − t")
    handles, labels = axes[0].get_legend_handles_labels()
    canvas.legend(handles, labels, title="guidance", title_fontsize=7, loc="outside right center")
    caption = (
        f"Effective time of the sampling trajectory, from {images} images, with bands of one standard error. Paired: "
        "from the distance of each latent to its own end. Marginal: from the energy of its fine detail, calibrated on "
        "forward-noised final latents. Dotted: effective time equal to t. Guidance 1 is the control: the paired time "
        "can be above t even for an exact, unguided sampler."
    )
    return Figure("effective-time", canvas, caption)


def _color(number: int) -> str:
    return "black" if number == 0 else OKABE_ITO[(number - 1) % (len(OKABE_ITO) - 1)]


def _scale(guidance: Coordinate) -> str:
    return f"{guidance:g} (control)" if guidance == 1 else f"{guidance:g}"


def _curve(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], number: int, guidance: Coordinate) -> None:
    axes.plot(x, y, color=_color(number), linestyle=DASHES[number % len(DASHES)], label=_scale(guidance))
