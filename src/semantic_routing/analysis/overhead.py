"""What each fusion strategy costs on the same backbone (paper, table 4)."""

import time
from typing import Any

import numpy as np
import torch

from ..fusion import STRATEGIES, SemanticRouter
from ..reporting.arrays import Arrays, Coordinates, NamedArray
from ..reporting.figures import OKABE_ITO, Drawing, panels, signed
from .base import Analysis, Subject, Table, routed
from .sampling import identity

BASELINE = "penultimate"
THIN = {"elinewidth": 0.5, "capsize": 1.0, "capthick": 0.5}
QUANTITIES = {"parameters": "parameters", "flops": "FLOPs of sampling", "latency": "latency"}


class Overhead(Analysis):
    """Parameters, FLOPs and measured latency of every strategy, relative to `penultimate`."""

    name = "overhead"
    title = "Cost of every strategy on this backbone"
    needs = "sampling"

    @classmethod
    def applies_to(cls, strategy: str) -> bool:
        """Models whose blocks cross-attend to a router's context, which all strategies share."""
        return routed(strategy)

    def compute(self, subject: Subject) -> Arrays:
        """`parameters`, `flops` and `latency` (seconds, by round) over strategies; all read all layers they can."""
        from ..models.flops import count_parameters

        pipelines = {strategy: variant(subject.pipeline, strategy) for strategy in STRATEGIES}
        prompt = subject.prompts[0]
        by_strategy: dict[str, Coordinates] = {"strategy": list(pipelines)}
        parameters = [sum(count_parameters(pipeline.transformer).values()) for pipeline in pipelines.values()]
        flops = [count_flops(pipeline, prompt, subject.options.steps) for pipeline in pipelines.values()]
        seconds = measure(subject, list(pipelines.values()), prompt)
        return {
            "parameters": NamedArray(np.array(parameters), by_strategy),
            "flops": NamedArray(np.array(flops), by_strategy),
            "latency": NamedArray(seconds, {"round": range(len(seconds)), **by_strategy}),
        }

    def tables(self, arrays: Arrays, subject: Subject) -> list[Table]:
        """One row a strategy."""
        relative, ratios = relative_costs(arrays), latency_ratios(arrays)
        rows = []
        for strategy in arrays["parameters"].axes["strategy"]:
            parameters, flops = (float(arrays[name].at(strategy=strategy)) for name in ("parameters", "flops"))
            latency = float(np.median(arrays["latency"].at(strategy=strategy)))
            changes = [
                f"{signed(100 * (float(relative.at(strategy=strategy, quantity=name)) - 1), 2)} %"
                for name in QUANTITIES
            ]
            of_rounds = 100 * (ratios.at(strategy=strategy) - 1)
            changes[-1] += f" [{signed(of_rounds.min(), 1)}, {signed(of_rounds.max(), 1)}]"
            numbers = [f"{parameters / 1e6:.3f} M", f"{flops / 1e9:.3f} G", f"{1000 * latency:.1f} ms"]
            rows.append([str(strategy), *(cell for pair in zip(numbers, changes, strict=True) for cell in pair)])
        options = subject.options
        caption = (
            f"One image at guidance {options.guidance:g} in {options.steps} steps on {subject.pipeline.device.type}, "
            f"language model included. Latency: medians of {options.rounds} rounds in which the strategies took turns; "
            f"changes against {BASELINE} are medians of each round's own, with the least and the most in brackets."
        )
        header = ["strategy", "parameters", "change", "FLOPs", "change", "latency", "change"]
        return [Table(caption, header, rows)]

    def draw(self, arrays: Arrays, subject: Subject) -> list[Drawing]:
        """Costs relative to the baseline."""
        relative, ratios = relative_costs(arrays), latency_ratios(arrays)
        strategies = relative.axes["strategy"]
        figure, axes = panels(1, 1, 5.2, 2.6)
        width = 0.8 / len(QUANTITIES)
        for number, (name, label) in enumerate(QUANTITIES.items()):
            places = np.arange(len(strategies)) + (number - 1) * width
            change = 100 * (relative.at(quantity=name) - 1)
            whiskers = None
            if name == "latency":
                of_rounds = 100 * (ratios.values - 1)
                whiskers = [change - of_rounds.min(0), of_rounds.max(0) - change]
            bars = axes[0].bar(
                places, change, width, color=OKABE_ITO[number], label=label, yerr=whiskers, error_kw=THIN
            )
            axes[0].bar_label(bars, [signed(value, 1) for value in change], fontsize=5, padding=1)
        axes[0].axhline(0, color="black", linewidth=0.6)
        axes[0].margins(y=0.12)
        axes[0].set_xticks(range(len(strategies)), [str(strategy) for strategy in strategies])
        axes[0].set_ylabel(f"change against {BASELINE} (%)")
        axes[0].legend()
        caption = (
            f"Cost of the fusion strategies on this model's backbone, relative to {BASELINE}: parameters, "
            f"floating-point operations and measured latency of sampling one image in {subject.options.steps} steps "
            f"(median, least and most of {subject.options.rounds} rounds)."
        )
        return [Drawing("overhead", figure, caption)]


def variant(pipeline: Any, strategy: str) -> Any:
    """A pipeline of another strategy, untrained, on the same backbone, whose weights it shares."""
    transformer = pipeline.transformer
    kind = type(transformer)
    everything = type(pipeline.prompt_encoder).resolve("all", pipeline.text_encoder.config)
    layers = kind.layers_read(strategy, everything)
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    config |= {"strategy": strategy, "num_text_layers": len(layers)}
    with torch.device("meta"):
        other = kind(**config)
    for name, child in transformer.named_children():
        setattr(other, name, child)
    other.router = SemanticRouter(strategy, len(layers), config["num_blocks"]).to(transformer.device)
    names = ("instruction", "chat_template", "max_length", "last_layer")
    return type(pipeline)(
        transformer=other.eval(),
        scheduler=pipeline.scheduler,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        vae=pipeline.vae,
        text_layers=layers,
        **{name: pipeline.config[name] for name in names},
    )


def count_flops(pipeline: Any, prompt: str, steps: int) -> int:
    """FLOPs of one guided image: the language model, then all of sampling."""
    from ..models.flops import Sampling, count_language_model, count_sampling
    from ..text.depth import shorten

    config = pipeline.transformer.config
    tokens = pipeline.prompt_encoder.tokenize([prompt, ""])[1].shape[1]
    sampling = Sampling(latent_size=config.sample_size, text_tokens=tokens, steps=steps)
    language_model = shorten(pipeline.text_encoder.config, max(pipeline.prompt_encoder.layers))
    text = count_language_model(language_model, sampling.rows, tokens)
    return sum(count_sampling(pipeline.transformer, sampling).values()) + sum(text.values())


def measure(subject: Subject, pipelines: list[Any], prompt: str) -> Any:
    """Seconds to sample one image, `rounds pipelines`; they take turns, and a first round is not counted."""
    options = subject.options
    rounds = []
    for _ in range(options.rounds + 1):
        row = []
        for pipeline in pipelines:
            pipeline.set_progress_bar_config(disable=True)
            started = time.perf_counter()
            latents = pipeline(
                prompt,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                latents=subject.noise[:1],
                timestep_map=identity,
                output_type="latent",
            ).images
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
