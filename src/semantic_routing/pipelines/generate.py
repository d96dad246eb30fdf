"""Prompts in, image files out."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from ..fusion import LayerGains, write_gains
from ..io.images import save_animation, save_image
from ..io.resources import DEMO
from ..reporting.picture_grid import Row, fit, picture_grid
from .loading import load_pipeline
from .semantic_routing import SemanticRoutingPipeline

MOST_ROWS = 64  # prompts in a grid

Frames = list[list[Image.Image]]
"""The images of a batch after each step."""


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
    save_steps: bool = False,
    fusion_scale: float = 1.0,
) -> list[Path]:
    """Writes `00000-0.png` (prompt 0, image 0) and so on, and `grid.png` with a row a prompt; returns the images.

    Image i of every prompt starts from the noise of `seed + i`, whatever the batch. Each file keeps its prompt, its
    seed and the settings as PNG texts. The grid shows the first `MOST_ROWS` prompts.

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
        save_steps: write `00000-0-steps.png` too, an animation of the image after each step.
        fusion_scale: how far fusion weights lie from the plain mean of layers, see `fusion.check_scale`.

    Raises:
        ValueError: there is no prompt, or the pipeline cannot be loaded.
    """
    if not prompts:
        raise ValueError("There is no prompt: give some as arguments, or a file with --prompts.")
    loaded = load_pipeline(pipeline, dtype, device)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    paths = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        frames: Frames = []
        made = loaded(
            batch,
            negative_prompt=negative_prompt,
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_images_per_prompt=images_per_prompt,
            layer_gains=layer_gains,
            fusion_scale=fusion_scale,
            generator=[torch.Generator().manual_seed(seed + i) for _ in batch for i in range(images_per_prompt)],
            callback_on_step_end=_keep(frames) if save_steps else None,
            return_dict=False,
        )[0]
        gains = None if layer_gains is None else write_gains(layer_gains)
        own = None if fusion_scale == 1 else fusion_scale
        settings = {"negative_prompt": negative_prompt, "layer_gains": gains, "fusion_scale": own, "dtype": dtype}
        metadata = describe_settings(loaded, pipeline, made[0].size, settings)
        for number, image in enumerate(made):
            prompt, i = divmod(number, images_per_prompt)
            path = out / f"{start + prompt:05d}-{i}.png"
            texts = {"prompt": batch[prompt], "seed": str(seed + i), **metadata}
            save_image(image, path, texts)
            if frames:
                save_animation([fit(step[number]) for step in frames], path.with_stem(f"{path.stem}-steps"), texts)
            paths.append(path)
        pictures = [made[first : first + images_per_prompt] for first in range(0, len(made), images_per_prompt)]
        rows += [Row(*row) for row in zip(pictures, batch, strict=True)][: MOST_ROWS - len(rows)]
    save_image(picture_grid(rows), out / "grid.png")
    return paths


def describe_settings(
    pipeline: SemanticRoutingPipeline, name: str, size: tuple[int, int], others: Mapping[str, object]
) -> dict[str, str]:
    """The settings of the pipeline's last call as PNG texts: `settings` is JSON.

    Args:
        pipeline: that made the image.
        name: under which it was loaded.
        size: of the image, width and height in pixels.
        others: settings that the pipeline does not keep; those that are None are left out.
    """
    settings = {
        "pipeline": name,
        "steps": pipeline.num_timesteps,
        "guidance": pipeline.guidance_scale,
        "size": size,
        **{key: value for key, value in others.items() if value is not None},
    }
    return {"settings": json.dumps(settings, ensure_ascii=False), "software": f"semantic-routing {__version__}"}


def _keep(frames: Frames) -> Callable[[SemanticRoutingPipeline, int, Tensor, dict[str, Tensor]], None]:
    """A callback that keeps what the latents look like after each step."""

    def callback(pipeline: SemanticRoutingPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        decoded = pipeline.codec.decode(tensors["latents"]).float()
        frames.append(pipeline.image_processor.postprocess(decoded, output_type="pil"))

    return callback
