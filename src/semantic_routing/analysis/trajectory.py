"""Does sampling run ahead of the schedule that the gate was trained on? (paper, fig. 4)"""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..fusion.timestep_map import TimestepMap
from ..reporting.arrays import Arrays, Coordinate, NamedArray
from ..reporting.figures import DASHES, OKABE_ITO, Drawing, panels, signed
from .base import FINE_TIMES, Analysis, Subject, Table
from .effective_time import forward_error, marginal_time, paired_time, psnr
from .sampling import gaussian

NOISES = ("starting", "fresh")
METHODS = ("paired", "marginal")
FRESH_SEED = 1_000_000
MIDDLE = (0.2, 0.8)

CONTROL = (
    "Read this figure against its control, guidance 1. A deterministic sampler's path stays close to its own end, so "
    "that the paired time can be above t even where field, sampler and marginals are exact and nothing is guided: for "
    "a Gaussian of standard deviation 1 it is 0.79 at t = 0.5. Only what exceeds the control can be put down to "
    "guidance. The marginal time has no such offset: it is t wherever the marginals are right."
)


class TrajectoryAnalysis(Analysis):
    """The sampling trajectory against the forward process rebuilt from its own end."""

    name = "trajectory"
    title = "The sampling trajectory and its effective time"
    needs = "sampling"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Every model that samples."""
        return True

    def compute(self, subject: Subject) -> Arrays:
        """`mse` and `psnr` by guidance and noise; `effective_time` and its `error` by guidance and method."""
        error, ratio, times, deviations = [], [], [], []
        fresh = gaussian(len(subject.noise), subject.noise.shape[1:], subject.options.seed + FRESH_SEED)
        for guidance in subject.options.scales:
            flow_times, states = subject.trajectory(guidance)
            errors = [forward_error(states, flow_times, noise) for noise in (states[0], fresh)]
            error.append([values.mean(1) for values in errors])
            with np.errstate(invalid="ignore"):
                ratio.append([psnr(values, states[-1]).mean(1) for values in errors])
            estimates = [paired_time(states), marginal_time(states, flow_times)]
            times.append([estimate.time for estimate in estimates])
            deviations.append([estimate.error for estimate in estimates])
        scales, along = subject.options.scales, flow_times.round(6).tolist()
        by_noise = {"guidance": scales, "noise": NOISES, "flow_time": along}
        by_method = {"guidance": scales, "method": METHODS, "flow_time": along}
        return {
            "mse": NamedArray(np.array(error), by_noise),
            "psnr": NamedArray(np.array(ratio), by_noise),
            "effective_time": NamedArray(np.array(times), by_method),
            "error": NamedArray(np.array(deviations), by_method),
        }

    def describe(self, arrays: Arrays, subject: Subject) -> list[str]:
        """How much of the advance remains above the control."""
        texts = [CONTROL]
        times, guidance = arrays["effective_time"], subject.options.guidance
        for method in METHODS:
            control, guided = (mean_advance(times, scale, method) for scale in (1.0, guidance))
            texts.append(
                f"Mean {method} effective time minus t for t from {MIDDLE[0]} to {MIDDLE[1]}: {signed(control, 3)} "
                f"without guidance and {signed(guided, 3)} at guidance {guidance:g}, so {signed(guided - control, 3)} "
                "is guidance's."
            )
        return texts

    def tables(self, arrays: Arrays, subject: Subject) -> list[Table]:
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
        return [Table(caption, ["guidance", *METHODS], rows)]

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """Distances to the forward process, and effective times."""
        return [draw_distances(arrays, len(subject.prompts)), draw_effective_times(arrays, len(subject.prompts))]


def mean_advance(times: NamedArray, guidance: float, method: str) -> float:
    """Mean of effective time minus t over the middle of sampling."""
    along = times.numbers("flow_time")
    middle = (along >= MIDDLE[0]) & (along <= MIDDLE[1])
    return float((times.at(guidance=guidance, method=method) - along)[middle].mean())


def measured_map(times: NamedArray, guidance: float, method: str) -> TimestepMap:
    """The map that shows the gate the effective time in place of the sampler's; it never runs backwards."""
    along = times.numbers("flow_time")
    measured = np.maximum.accumulate(times.at(guidance=guidance, method=method))
    gate_times = np.interp(FINE_TIMES, along, measured).clip(0, 1)
    pairs = zip(FINE_TIMES, gate_times, strict=True)
    return TimestepMap([(1000 * (1 - float(t)), 1000 * (1 - float(gate))) for t, gate in pairs])


def draw_distances(arrays: Arrays, images: int) -> Drawing:
    """MSE and PSNR against flow time, for both kinds of noise."""
    figure, axes = panels(2, 2, 3.0, 2.1, sharex=True, sharey="row")
    rows = (("mse", "latent MSE"), ("psnr", "PSNR (dB)"))
    for place, ((quantity, label), noise) in zip(axes, [(row, noise) for row in rows for noise in NOISES], strict=True):
        array = arrays[quantity]
        for number, guidance in enumerate(array.axes["guidance"]):
            _curve(place, array.numbers("flow_time"), array.at(guidance=guidance, noise=noise), number, guidance)
        if quantity == "mse":
            place.set_title(f"forward process from {noise} noise")
        else:
            place.set_xlabel("flow time t (0 noise, 1 data)")
        if noise == NOISES[0]:
            place.set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="guidance", title_fontsize=7, loc="outside right center")
    caption = (
        "Latent mean squared error and PSNR of the sampling trajectory against the forward process rebuilt from its "
        f"own final latent, with the starting noise and with fresh noise; means over {images} images. The peak of PSNR "
        "is the range of values of each final latent. Guidance 1 is the control."
    )
    return Drawing("distances", figure, caption)


def draw_effective_times(arrays: Arrays, images: int) -> Drawing:
    """Effective time over flow time above, its advance below, for both methods."""
    times, error = arrays["effective_time"], arrays["error"]
    figure, axes = panels(2, 2, 3.0, 2.1, sharex=True, sharey="row")
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
        below.set_xlabel("flow time t (0 noise, 1 data)")
    axes[0].set_ylabel("effective time")
    axes[2].set_ylabel("effective time − t")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="guidance", title_fontsize=7, loc="outside right center")
    caption = (
        f"Effective time of the sampling trajectory, from {images} images, with bands of one standard error. Paired: "
        "from the distance of each latent to its own end. Marginal: from the energy of its fine detail, calibrated on "
        "forward-noised final latents. Dotted: effective time equal to t. Guidance 1 is the control: the paired time "
        "can be above t even for an exact, unguided sampler."
    )
    return Drawing("effective-time", figure, caption)


def _color(number: int) -> str:
    return "black" if number == 0 else OKABE_ITO[(number - 1) % (len(OKABE_ITO) - 1)]


def _curve(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], number: int, guidance: Coordinate) -> None:
    label = f"{guidance:g} (control)" if guidance == 1 else f"{guidance:g}"
    axes.plot(x, y, color=_color(number), linestyle=DASHES[number % len(DASHES)], label=label)
