"""Prompts in, image files out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image

from ..fusion import LayerGains
from ..io.resources import DEMO
from .loading import load_pipeline


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, without empty ones."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def generate_files(
    prompts: Sequence[str],
    out: Path,
    pipeline: str = DEMO,
    images_per_prompt: int = 4,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    negative_prompt: str | None = None,
    size: int | None = None,
    batch_size: int = 8,
    dtype: str = "float32",
    device: str | None = None,
    layer_gains: LayerGains | None = None,
) -> list[Path]:
    """Writes `00000-0.png` (prompt 0, image 0) and so on, and `grid.png` with a row a prompt; returns the images.

    Image i of every prompt starts from the noise of `seed + i`, whatever the batch.

    Args:
        prompts: at least one.
        out: folder for the images.
        pipeline: folder, hub name or `demo`.
        images_per_prompt: images of each prompt.
        seed: of the first image.
        steps: Euler steps; None is the pipeline's own number.
        guidance: classifier-free guidance scale; None is the pipeline's own.
        negative_prompt: what guidance moves away from.
        size: pixels a side; None is the model's.
        batch_size: prompts at a time.
        dtype: of the weights.
        device: None is cuda where there is one.
        layer_gains: factors of language-model layers, see `fusion.LayerGains`.

    Raises:
        ValueError: there is no prompt, or the pipeline cannot be loaded.
    """
    if not prompts:
        raise ValueError("There is no prompt: give some as arguments, or a file with --prompts-file.")
    loaded = load_pipeline(pipeline, dtype, device)
    out.mkdir(parents=True, exist_ok=True)
    images: list[Image.Image] = []
    paths = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        made = loaded(
            batch,
            negative_prompt=negative_prompt,
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_images_per_prompt=images_per_prompt,
            layer_gains=layer_gains,
            generator=[torch.Generator().manual_seed(seed + i) for _ in batch for i in range(images_per_prompt)],
            return_dict=False,
        )[0]
        for number, image in enumerate(made):
            prompt, i = divmod(number, images_per_prompt)
            paths.append(out / f"{start + prompt:05d}-{i}.png")
            image.save(paths[-1])
        images += made
    make_image_grid(images, rows=len(prompts), cols=images_per_prompt).save(out / "grid.png")
    return paths
