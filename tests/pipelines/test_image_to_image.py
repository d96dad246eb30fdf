"""Image to image and inpainting, as `diffusers` does them."""

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from tiny import TRANSFORMER_SIZES, normal
from torch import Tensor

from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.tiny_vae import tiny_vae
from semantic_routing.pipelines import (
    SemanticRoutingImg2ImgPipeline,
    SemanticRoutingInpaintPipeline,
    SemanticRoutingPipeline,
)
from semantic_routing.text import load_language_model, load_tokenizer

PROMPTS = ["a red circle", "two blue squares"]


@pytest.fixture
def pipe(qwen3_vl: object) -> SemanticRoutingImg2ImgPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SemanticRoutingTransformer2DModel(**TRANSFORMER_SIZES | {"strategy": "joint", "in_channels": 4})
        for parameter in transformer.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    folder = str(qwen3_vl)
    plain = SemanticRoutingPipeline(
        transformer.eval(),
        FlowMatchEulerDiscreteScheduler(shift=2.0),
        load_language_model(folder),
        load_tokenizer(folder),
        vae=tiny_vae(),
    )
    made = SemanticRoutingImg2ImgPipeline.from_pipe(plain)
    made.set_progress_bar_config(disable=True)
    return made


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(2)]


def sample(pipe: SemanticRoutingPipeline, **more: object) -> Tensor:
    options = {"num_inference_steps": 4, "output_type": "latent", "return_dict": False, "guidance_scale": 1.0}
    return pipe(PROMPTS, **options | {"generator": generators()} | more)[0]


def test_all_steps_are_text_to_image_and_few_stay_near_the_image(pipe: SemanticRoutingImg2ImgPipeline) -> None:
    noise, image = normal(2, 4, 8, 8), normal(1, 3, 16, 16, seed=1).clamp(-1, 1)
    plain = SemanticRoutingPipeline.from_pipe(pipe)
    plain.set_progress_bar_config(disable=True)
    whole = sample(plain, latents=noise)
    torch.testing.assert_close(sample(pipe, image=image, strength=1.0, latents=noise), whole)
    assert pipe.num_timesteps == 4
    clean = pipe.codec.encode(image.expand(2, -1, -1, -1), generators())
    distances = []
    for strength, steps in ((0.25, 1), (0.5, 2), (1.0, 4)):
        pipe.transformer.proj_out.requires_grad_(False).weight.mul_(0)  # no velocity: what began is what ends
        ended = sample(pipe, image=image, strength=strength, latents=noise)
        assert pipe.num_timesteps == steps
        sigma = pipe.scheduler.sigmas[4 - steps]
        bias = pipe.transformer.proj_out.bias
        assert bias is not None
        distances.append(float((ended - ((1 - sigma) * clean + sigma * noise)).abs().mean()))
    assert distances[0] < distances[-1]


def test_sizes_schedulers_and_loading(pipe: SemanticRoutingImg2ImgPipeline, tmp_path: object) -> None:
    picture = Image.new("RGB", (24, 16), "red")
    for scheduler in (pipe.scheduler, diffusers.FlowMatchHeunDiscreteScheduler()):
        pipe.scheduler = scheduler
        images = sample(pipe, image=[picture, picture], strength=0.5, output_type="pil")
        assert [image.size for image in images] == [(24, 16)] * 2
    assert sample(pipe, image=picture, height=8, width=8).shape == (2, 4, 4, 4)
    pipe.save_pretrained(str(tmp_path))
    assert type(DiffusionPipeline.from_pretrained(str(tmp_path))) is SemanticRoutingImg2ImgPipeline


def test_mistakes(pipe: SemanticRoutingImg2ImgPipeline) -> None:
    image = normal(3, 3, 16, 16).clamp(-1, 1)
    with pytest.raises(ValueError, match="no image to begin with"):
        sample(pipe)
    with pytest.raises(ValueError, match=r"strength must be above 0 and at most 1, not 1\.5"):
        sample(pipe, image=image, strength=1.5)
    with pytest.raises(ValueError, match="Got 3 images to begin with for 2 to make"):
        sample(pipe, image=image)


@pytest.fixture
def inpaint(pipe: SemanticRoutingImg2ImgPipeline) -> SemanticRoutingInpaintPipeline:
    made = SemanticRoutingInpaintPipeline.from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    return made


def right_half(size: int = 16) -> Image.Image:
    mask = Image.new("L", (size, size), "black")
    mask.paste("white", (size // 2, 0, size, size))
    return mask


@pytest.mark.parametrize("scheduler", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_only_the_mask_is_made_anew(inpaint: SemanticRoutingInpaintPipeline, scheduler: str) -> None:
    inpaint.scheduler = getattr(diffusers, scheduler)()
    image = normal(2, 3, 16, 16, seed=1).clamp(-1, 1)
    made = sample(inpaint, image=image, mask_image=right_half(), strength=1.0)
    assert inpaint.num_timesteps == len(inpaint.scheduler.timesteps)
    noise_came_first = generators()
    [torch.randn(1, 4, 8, 8, generator=generator) for generator in noise_came_first]
    clean = inpaint.codec.encode(image, noise_came_first)
    torch.testing.assert_close(made[..., :4], clean[..., :4])
    assert (made[..., 4:] - clean[..., 4:]).abs().mean() > 0.1


def test_masks_of_one_color_are_image_to_image_and_the_image(inpaint: SemanticRoutingInpaintPipeline) -> None:
    image, white, black = normal(1, 3, 16, 16).clamp(-1, 1), Image.new("L", (16, 16), 255), Image.new("L", (16, 16), 0)
    plain = SemanticRoutingImg2ImgPipeline.from_pipe(inpaint)
    plain.set_progress_bar_config(disable=True)
    options = {"image": image, "strength": 0.5, "latents": normal(2, 4, 8, 8, seed=2)}
    torch.testing.assert_close(sample(inpaint, mask_image=white, **options), sample(plain, **options))
    kept = sample(inpaint, mask_image=black, **options)
    torch.testing.assert_close(kept, inpaint.codec.encode(image.expand(2, -1, -1, -1), generators()))


def test_a_callback_sees_and_changes_inpainted_latents(inpaint: SemanticRoutingInpaintPipeline) -> None:
    seen = []

    def callback(pipe: object, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(sorted(tensors))
        return {"latents": torch.zeros_like(tensors["latents"])}

    image = normal(1, 3, 16, 16).clamp(-1, 1)
    made = sample(inpaint, image=image, mask_image=right_half(), callback_on_step_end=callback, strength=0.5)
    assert seen == [["latents"]] * 2
    assert not made.any()


def test_mistakes_in_masks(inpaint: SemanticRoutingInpaintPipeline) -> None:
    image = normal(1, 3, 16, 16).clamp(-1, 1)
    with pytest.raises(ValueError, match="give mask_image"):
        sample(inpaint, image=image)
    with pytest.raises(ValueError, match="Got 3 masks for 2 images"):
        sample(inpaint, image=image, mask_image=[right_half()] * 3)
