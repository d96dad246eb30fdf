"""What each fusion strategy costs on the same backbone (paper, table 4)."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ..fusion import FUSIONS
from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import OKABE_ITO, Figure, panels, signed
from ..reporting.table import Table
from .base import ANALYSES, Analysis
from .model import SavedModel
from .samples import identity

if TYPE_CHECKING:
    from ..pipelines import SemanticRoutingPipeline

BASELINE = "penultimate"
THIN = {"elinewidth": 0.5, "capsize": 1.0, "capthick": 0.5}
QUANTITIES = ("parameters", "flops", "latency")


@ANALYSES.register("overhead")
class Overhead(Analysis):
    """Parameters, FLOPs and measured latency of every strategy, relative to `penultimate`."""

    title = "Cost of every strategy on this backbone"
    samples = True
    hosts = False

    def compute(self, model: SavedModel) -> Arrays:
        """`parameters`, `flops` and `latency` (seconds, by round) over strategies; all read all layers they can."""
        from ..models.flops import count_parameters

        pipelines = pipelines_of_all(model)
        prompt = model.prompts[0]
        by_strategy: dict[str, Coordinates] = {"strategy": list(pipelines)}
        parameters = [sum(count_parameters(pipeline.transformer).values()) for pipeline in pipelines.values()]
        flops = [count_flops(pipeline, prompt, model.steps) for pipeline in pipelines.values()]
        seconds = measure(model, list(pipelines.values()), prompt)
        return {
            "parameters": NamedArray(np.array(parameters), by_strategy),
            "flops": NamedArray(np.array(flops), by_strategy),
            "latency": NamedArray(seconds, {"round": range(len(seconds)), **by_strategy}),
        }

    def describe(self, arrays: Arrays, model: SavedModel) -> list[str]:
        """Which strategies are missing."""
        missing = [name for name in FUSIONS if name not in arrays["parameters"].axes["strategy"]]
        return [f"Left out, since they cannot be built here by default: {', '.join(missing)}."] if missing else []

    def tables(self, arrays: Arrays, model: SavedModel) -> list[Table]:
        """One row a strategy."""
        relative, ratios = relative_costs(arrays), latency_ratios(arrays)
        rows = []
        for strategy in arrays["parameters"].axes["strategy"]:
            parameters, flops = (float(arrays[name].at(strategy=strategy)) for name in ("parameters", "flops"))
            milliseconds = 1000 * float(np.median(arrays["latency"].at(strategy=strategy)))
            changes = 100 * (relative.at(strategy=strategy) - 1)
            rounds = 100 * (ratios.at(strategy=strategy) - 1)
            digits = digits_of(rounds)
            rows.append(
                [
                    str(strategy),
                    f"{parameters / 1e6:.3f} M",
                    f"{signed(changes[0], 2)} %",
                    f"{flops / 1e9:.3f} G",
                    f"{signed(changes[1], 2)} %",
                    f"{milliseconds:.{1 if milliseconds < 100 else 0}f} ms",
                    f"{signed(changes[2], digits)} % [{signed(rounds.min(), digits)}, {signed(rounds.max(), digits)}]",
                ]
            )
        caption = (
            f"One image at guidance {model.guidance:g} in {model.steps} steps on {model.pipeline.device.type}, the "
            f"language model included. Latency: medians of {model.options.rounds} rounds in which the strategies took "
            f"turns; changes against {BASELINE} are medians of each round's own, with the least and the most in "
            "brackets. A bracket around 0 tells no difference."
        )
        header = ["strategy", "parameters", "change", "FLOPs", "change", "latency", "change"]
        return [Table(header, rows, caption)]

    def draw(self, arrays: Arrays, model: SavedModel) -> list[Figure]:
        """Costs relative to the baseline."""
        relative, ratios = relative_costs(arrays), latency_ratios(arrays)
        strategies = relative.axes["strategy"]
        canvas, axes = panels(1, 2, 3.0)
        rounds = 100 * (ratios.values - 1)
        change = 100 * (relative.values - 1)
        for number, label in enumerate(("parameters", "FLOPs of sampling")):
            places = np.arange(len(strategies)) + 0.4 * number - 0.2
            bars = axes[0].bar(places, change[:, number], 0.4, color=OKABE_ITO[number], label=label)
            axes[0].bar_label(bars, [signed(value, 1) for value in change[:, number]], fontsize=5, padding=1)
        whiskers = [change[:, 2] - rounds.min(0), rounds.max(0) - change[:, 2]]
        bars = axes[1].bar(
            strategies, change[:, 2], 0.6, color=OKABE_ITO[2], label="latency", yerr=whiskers, error_kw=THIN
        )
        texts = [signed(value, digits_of(column)) for value, column in zip(change[:, 2], rounds.T, strict=True)]
        axes[1].bar_label(bars, texts, fontsize=6, padding=1)
        for place in axes:
            place.axhline(0, color="black", linewidth=0.6)
            place.margins(y=0.12)
            place.set_xticks(range(len(strategies)), [str(name) for name in strategies], rotation=30, ha="right")
            place.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        axes[0].set_ylabel(f"change against {BASELINE} (%)")
        caption = (
            f"Cost of the fusion strategies on this model's backbone, relative to {BASELINE}: parameters, "
            f"floating-point operations and measured latency of sampling one image in {model.steps} steps "
            f"(median, least and most of {model.options.rounds} rounds)."
        )
        return [Figure("overhead", canvas, caption)]


def digits_of(rounds: NDArray[np.float64]) -> int:
    """Decimals that percentages of several rounds bear."""
    return 1 if np.ptp(rounds) < 1 else 0


def pipelines_of_all(model: SavedModel) -> dict[str, "SemanticRoutingPipeline"]:
    """A pipeline of each registered strategy on the model's backbone; those that cannot be built there are left out."""
    from ..pipelines.replace import with_strategy

    own = model.files.strategy
    found = {}
    for strategy in FUSIONS:
        options = model.files.transformer.get("fusion_options") if strategy == own else None
        with suppress(ValueError):
            found[strategy] = with_strategy(model.pipeline, strategy, options)
    return found


def count_flops(pipeline: "SemanticRoutingPipeline", prompt: str, steps: int) -> int:
    """FLOPs of one guided image: the language model, then all of sampling."""
    from ..models.flops import Sampling, count_language_model, count_sampling
    from ..text.depth import shorten

    config = pipeline.transformer.config
    tokens = pipeline.prompt_encoder.tokenize([prompt, ""])[1].shape[1]
    sampling = Sampling(latent_size=config.sample_size, text_tokens=tokens, steps=steps)
    language_model = shorten(pipeline.text_encoder.config, max(pipeline.prompt_encoder.layers))
    text = count_language_model(language_model, sampling.rows, tokens)
    return sum(count_sampling(pipeline.transformer, sampling).values()) + sum(text.values())


def measure(
    model: SavedModel, pipelines: Sequence["SemanticRoutingPipeline"], prompt: str
) -> Float[np.ndarray, "rounds pipelines"]:
    """Seconds to sample one image, `rounds pipelines`; they take turns, and a first round is not counted."""
    rounds = []
    for _ in range(model.options.rounds + 1):
        row = []
        for pipeline in pipelines:
            pipeline.set_progress_bar_config(disable=True)
            started = time.perf_counter()
            latents = pipeline(
                prompt,
                num_inference_steps=model.steps,
                guidance_scale=model.guidance,
                latents=model.noise[:1],
                timestep_map=identity,
                output_type="latent",
                return_dict=False,
            )[0]
            latents.cpu()  # waits for the device
            row.append(time.perf_counter() - started)
        rounds.append(row)
    return np.array(rounds[1:])


def latency_ratios(arrays: Arrays) -> NamedArray:
    """Latency over that of the baseline in the same round."""
    latency = arrays["latency"]
    base = latency.axes["strategy"].index(BASELINE)
    return NamedArray(latency.values / latency.values[:, [base]], latency.axes)


def relative_costs(arrays: Arrays) -> NamedArray:
    """Cost over that of the baseline; latency by the median of each round's ratio."""
    strategies = arrays["parameters"].axes["strategy"]
    base = strategies.index(BASELINE)
    rows = [arrays[name].values / arrays[name].values[base] for name in ("parameters", "flops")]
    rows.append(np.median(latency_ratios(arrays).values, axis=0))
    return NamedArray(np.stack(rows, axis=1), {"strategy": strategies, "quantity": list(QUANTITIES)})
