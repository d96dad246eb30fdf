from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from tiny import TRANSFORMER_SIZES
from torch import Tensor

from semantic_routing.flow import guide, velocity
from semantic_routing.fusion import FUSIONS
from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.text import load_language_model, load_tokenizer

PROMPTS = ["a red circle", "two blue squares and a green star"]


@pytest.fixture(scope="module")
def make(language_models: Callable[[str], Path], vae_folder: Path) -> Callable[..., SemanticRoutingPipeline]:
    """`make(vae=False, named=False, **options of the transformer)`"""
    folder = str(language_models("qwen3-vl"))

    def pipeline(vae: bool = False, named: bool = False, **options: Any) -> SemanticRoutingPipeline:
        sizes = TRANSFORMER_SIZES | {"strategy": "joint", "in_channels": 4 if vae else 3}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformer = SemanticRoutingTransformer2DModel(**(sizes | options)).eval()
            for parameter in transformer.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
        made = SemanticRoutingPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
            text_encoder=None if named else load_language_model(folder),
            tokenizer=None if named else load_tokenizer(folder),
            vae=AutoencoderKL.from_pretrained(vae_folder).eval() if vae else None,
            text_model=folder if named else None,
        )
        made.set_progress_bar_config(disable=True)
        return made

    return pipeline


@pytest.fixture(scope="module")
def pixels(make: Callable[..., SemanticRoutingPipeline]) -> SemanticRoutingPipeline:
    return make()


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(
    pipeline: SemanticRoutingPipeline, prompt: Any = PROMPTS, seeds: tuple[int, ...] = (0, 1), **more: Any
) -> Any:
    options = {"generator": generators(*seeds), "num_inference_steps": 3, "output_type": "latent"} | more
    return pipeline(prompt, return_dict=False, **options)[0]


class Watch:
    """The batch sizes of the transformer's calls and how often its text context was made."""

    def __init__(self, pipeline: SemanticRoutingPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.contexts = 0
        self.encoded: list[int] = []
        transformer, make_context = pipeline.transformer, pipeline.transformer.text_context

        def text_context(*args: Any, **kwargs: Any) -> Any:
            self.contexts += 1
            return make_context(*args, **kwargs)

        monkeypatch.setattr(transformer, "text_context", text_context)
        self.handles = [
            transformer.register_forward_pre_hook(lambda module, args: self.rows.append(len(args[0]))),
            pipeline.text_encoder.register_forward_pre_hook(
                lambda module, args, kwargs: self.encoded.append(len(kwargs["input_ids"])), with_kwargs=True
            ),
        ]

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_sampling_is_guided_euler_steps(make: Callable[..., Any], prediction: str) -> None:
    pipeline = make(prediction=prediction)
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    latents = torch.cat([torch.randn(1, 3, 8, 8, generator=generator) for generator in generators(0, 1)])
    features = pipeline.prompt_encoder(["", "", *PROMPTS])
    actual = sample(pipeline, guidance_scale=3.0)
    scheduler.set_timesteps(3)
    sigmas = scheduler.sigmas
    assert scheduler.timesteps[0] == 1000
    assert sigmas[-1] == 0
    with torch.no_grad():
        for step, timestep in enumerate(scheduler.timesteps):
            noisy, times = torch.cat([latents, latents]), timestep.expand(4)
            output = transformer(noisy, times, features.hidden_states, features.mask).sample
            flow = guide(*velocity(output, noisy, times, prediction).chunk(2), 3.0)
            latents = latents + (sigmas[step + 1] - sigmas[step]) * flow
    torch.testing.assert_close(actual, latents, rtol=1e-3, atol=1e-3)


def test_images_of_one_prompt_are_neighbors(pixels: SemanticRoutingPipeline) -> None:
    together = sample(pixels, seeds=(0, 1, 2, 3, 4, 5), num_images_per_prompt=3)
    assert together.shape == (6, 3, 8, 8)
    for number in range(6):
        alone = sample(pixels, PROMPTS[number // 3], seeds=(number,))
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-3, atol=1e-3)
    assert (together[0] - sample(pixels, PROMPTS[1], seeds=(0,))[0]).abs().max() > 1e-2


def test_images_with_the_same_text_share_its_making(
    pixels: SemanticRoutingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, rows = pixels.transformer.prepare_text, []

    def counted(states: torch.Tensor, mask: torch.Tensor, reused: bool) -> Any:
        rows.append(len(states))
        return prepare(states, mask, reused)

    monkeypatch.setattr(pixels.transformer, "prepare_text", counted)
    sample(pixels, seeds=range(6), num_images_per_prompt=3, guidance_scale=3.0)
    assert rows == [3]  # the empty prompt of all images, and two prompts


def test_an_image_is_its_seed_s_whatever_the_batch(pixels: SemanticRoutingPipeline) -> None:
    alone = sample(pixels, PROMPTS[0], seeds=(7,))
    for prompts, seeds, row in (
        ([PROMPTS[0], PROMPTS[1]], (7, 8), 0),
        ([PROMPTS[1], "", PROMPTS[0]], (1, 2, 7), 2),
        ([PROMPTS[0]] * 2, (3, 7), 1),
    ):
        torch.testing.assert_close(sample(pixels, prompts, seeds)[row], alone[0], rtol=1e-3, atol=1e-3)
    assert (sample(pixels, PROMPTS[0], seeds=(8,)) - alone).abs().max() > 0.1
    single = pixels(PROMPTS[0], generator=generators(7)[0], num_inference_steps=3, output_type="latent").images
    torch.testing.assert_close(single, alone, rtol=1e-3, atol=1e-3)


def test_a_negative_prompt_is_what_guidance_moves_away_from(pixels: SemanticRoutingPipeline) -> None:
    plain = sample(pixels)
    assert sample(pixels, negative_prompt="").equal(plain)
    assert sample(pixels, negative_prompt=["", ""]).equal(plain)
    negative = sample(pixels, negative_prompt="a green star")
    assert (negative - plain).abs().max() > 1e-3
    each = sample(pixels, negative_prompt=["a green star", ""])
    torch.testing.assert_close(each[0], negative[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(each[1], plain[1], rtol=1e-3, atol=1e-3)
    away = sample(pixels, negative_prompt=PROMPTS)
    torch.testing.assert_close(away, sample(pixels, guidance_scale=1.0), rtol=1e-3, atol=1e-3)


def test_without_guidance_nothing_unconditional_is_computed(
    pixels: SemanticRoutingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Watch(pixels, monkeypatch) as guided:
        sample(pixels, guidance_scale=2.0)
    monkeypatch.undo()
    with Watch(pixels, monkeypatch) as plain:
        sample(pixels, guidance_scale=1.0, negative_prompt="a green star")
    assert guided.rows == [4, 4, 4]
    assert sum(guided.encoded) == 3
    assert plain.rows == [2, 2, 2]
    assert sum(plain.encoded) == 2


@pytest.mark.parametrize("strategy", FUSIONS)
def test_text_that_ignores_time_is_computed_once_a_call(
    make: Callable[..., Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make(strategy=strategy)
    with Watch(pipeline, monkeypatch) as watch:
        sample(pipeline, num_images_per_prompt=2, seeds=(0, 1, 2, 3))
    assert watch.contexts == (3 if "timestep" in pipeline.transformer.varies_with else 1)
    assert sum(watch.encoded) == 3


def test_the_gate_may_be_shown_another_time(make: Callable[..., Any]) -> None:
    joint, static = make(), make(strategy="static")
    assert (sample(joint, timestep_map=lambda timestep: timestep / 2) - sample(joint)).abs().max() > 1e-4
    assert sample(joint, timestep_map=lambda timestep: timestep).equal(sample(joint))
    assert sample(static, timestep_map=lambda timestep: timestep / 2).equal(sample(static))


def test_output_types(pixels: SemanticRoutingPipeline) -> None:
    latents = sample(pixels)
    expected = (latents / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(sample(pixels, output_type="pt"), expected)
    arrays = sample(pixels, output_type="np")
    np.testing.assert_allclose(arrays, expected.permute(0, 2, 3, 1), atol=1e-6)
    images = sample(pixels, output_type="pil")
    assert all(isinstance(image, Image.Image) and image.size == (8, 8) for image in images)
    np.testing.assert_allclose(np.array(images[1]) / 255, arrays[1], atol=0.003)
    result = pixels(PROMPTS, generator=generators(0, 1), num_inference_steps=3, output_type="latent")
    assert result.images.equal(latents)


def test_an_autoencoder_turns_latents_into_images(make: Callable[..., Any]) -> None:
    pipeline = make(vae=True)
    latents, images = sample(pipeline, height=24, width=8), sample(pipeline, height=24, width=8, output_type="pt")
    assert latents.shape == (2, 4, 12, 4)
    with torch.no_grad():
        expected = pipeline.vae.decode(latents / 1.5 + 0.06).sample
    torch.testing.assert_close(images, (expected / 2 + 0.5).clamp(0, 1), rtol=1e-3, atol=1e-3)
    assert sample(pipeline).shape == (2, 4, 8, 8)
    assert sample(pipeline, output_type="pt").shape == (2, 3, 16, 16)


def test_latents_can_be_given(pixels: SemanticRoutingPipeline) -> None:
    latents = torch.cat([torch.randn(1, 3, 8, 8, generator=generator) for generator in generators(0, 1)])
    assert sample(pixels, generator=None, latents=latents).equal(sample(pixels))


def test_a_callback_sees_every_step_and_may_change_it(pixels: SemanticRoutingPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def watch(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipeline is pixels
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    assert not sample(pixels, callback_on_step_end=watch).any()
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [time for _, time in seen] == sorted((time for _, time in seen), reverse=True)


@pytest.mark.parametrize("vae", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_saving_and_loading(make: Callable[..., Any], tmp_path: Path, vae: bool, named: bool) -> None:
    pipeline = make(vae=vae, named=named)
    expected = sample(pipeline, output_type="pt")
    pipeline.save_pretrained(tmp_path)
    assert pipeline.text_encoder is not None
    assert (tmp_path / "text_encoder").exists() != named
    assert (tmp_path / "vae").exists() == vae
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    loaded = SemanticRoutingPipeline.from_pretrained(tmp_path)
    assert loaded.scheduler.config.shift == 2.0
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(sample(loaded, output_type="pt"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("named", [False, True])
def test_half_precision_keeps_the_router_exact(make: Callable[..., Any], tmp_path: Path, named: bool) -> None:
    pipeline = make(named=named)
    expected = sample(pipeline)
    pipeline.save_pretrained(tmp_path)
    loaded = SemanticRoutingPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    assert {parameter.dtype for parameter in loaded.text_encoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in loaded.transformer.fusion.parameters()} == {torch.float32}
    latents = sample(loaded)
    assert latents.dtype == torch.float32
    assert (latents - expected).abs().mean() < 0.2 * expected.abs().mean()


def test_options_of_the_text_encoder_are_saved(make: Callable[..., Any], tmp_path: Path) -> None:
    plain = make(named=True)
    sizes = {key: value for key, value in plain.transformer.config.items() if not key.startswith("_")}
    changed = SemanticRoutingPipeline(
        SemanticRoutingTransformer2DModel(**(sizes | {"num_text_layers": 2})),
        plain.scheduler,
        text_model=plain.config.text_model,
        text_layers=[1, 3],
        instruction="draw ",
        chat_template=True,
        max_length=9,
    )
    changed.save_pretrained(tmp_path)
    encoder = SemanticRoutingPipeline.from_pretrained(tmp_path).prompt_encoder
    assert encoder.layers == [1, 3]
    assert (encoder.instruction, encoder.chat_template, encoder.max_length) == ("draw ", True, 9)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"height": 9}, "multiples of 2, not 9"),
        ({"width": 0}, "multiples of 2, not 0"),
        ({"negative_prompt": ["a"]}, "1 negative prompts for 2 prompts"),
        ({"generator": [torch.Generator()]}, "1 generators for 2 images"),
        ({"latents": torch.zeros(2, 3, 4, 4)}, r"\(2, 3, 4, 4\).* need \(2, 3, 8, 8\)"),
        ({"prompt": []}, "no prompt"),
        ({"output_type": "jpeg"}, "'jpeg': expected one of pil, np, pt, latent"),
        (
            {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["noise"]},
            "'noise'.*latents",
        ),
        ({"num_inference_steps": 0}, "num_inference_steps.* not 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt.* not 0"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    pixels: SemanticRoutingPipeline, options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Watch(pixels, monkeypatch) as watch, pytest.raises(ValueError, match=sentence):
        sample(pixels, options.pop("prompt", PROMPTS), **options)
    assert not watch.rows


def test_a_text_encoder_that_does_not_fit_is_refused(pixels: SemanticRoutingPipeline, make: Callable[..., Any]) -> None:
    with pytest.raises(
        ValueError, match="gives 4 layers of 32 channels; the transformer reads 3 layers of 32 channels"
    ):
        make(num_text_layers=3)
    with pytest.raises(ValueError, match="4 layers of 32 channels; the transformer reads 4 layers of 16 channels"):
        make(text_channels=16)
    with pytest.raises(ValueError, match="both are None"):
        SemanticRoutingPipeline(pixels.transformer, pixels.scheduler)
    with pytest.raises(ValueError, match="4 latent channels"):
        SemanticRoutingPipeline(
            pixels.transformer,
            pixels.scheduler,
            pixels.text_encoder,
            pixels.tokenizer,
            vae=make(vae=True).vae,
        )
