"""What users of any pipeline of `diffusers` take for granted."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from tiny import TRANSFORMER_SIZES
from torch import Tensor, nn

from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.pipelines import SemanticRoutingPipeline
from semantic_routing.text import load_language_model, load_tokenizer

PROMPTS = ["a red circle", "two blue squares and a green star"]


@pytest.fixture(scope="module")
def folder(language_models: Callable[[str], Path]) -> str:
    return str(language_models("qwen3"))


@pytest.fixture
def pipe(folder: str) -> SemanticRoutingPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SemanticRoutingTransformer2DModel(**TRANSFORMER_SIZES | {"strategy": "joint"}).eval()
        for parameter in transformer.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    made = SemanticRoutingPipeline(
        transformer,
        diffusers.FlowMatchEulerDiscreteScheduler(),
        load_language_model(folder),
        load_tokenizer(folder),
        max_length=40,
    )
    made.set_progress_bar_config(disable=True)
    return made


def sample(pipe: SemanticRoutingPipeline, prompt: Any = PROMPTS, **more: Any) -> Tensor:
    options = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": 4, "output_type": "latent"}
    return pipe(prompt, return_dict=False, guidance_scale=3.0, **options | more)[0]


def test_encoded_prompts_stand_for_prompts(pipe: SemanticRoutingPipeline) -> None:
    want = sample(pipe, negative_prompt="a green star")
    names = "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"
    encoded = pipe.encode_prompt(PROMPTS, negative_prompt="a green star")
    assert encoded[0].shape[:2] == (2, 4)
    given = dict(zip(names, encoded, strict=True))
    torch.testing.assert_close(sample(pipe, None, **given), want, rtol=1e-4, atol=1e-4)
    mixed = {name: given[name] for name in names[:2]}
    torch.testing.assert_close(sample(pipe, None, **mixed, negative_prompt="a green star"), want, rtol=1e-4, atol=1e-4)
    twice = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, num_images_per_prompt=2)
    assert twice[0][::2].equal(encoded[0])
    assert twice[0][1::2].equal(encoded[0])
    assert twice[2:] == (None, None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": None}, "no prompt"),
        ({"prompt_embeds": torch.zeros(1, 4, 3, 32)}, "both given"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 3, 3, 32)}, r"shape \(prompts, 4, tokens, 32\), not \(1, 3"),
        (
            {"prompt": None, "prompt_embeds": torch.zeros(1, 4, 3, 32), "prompt_attention_mask": torch.ones(1, 4)},
            r"shape \(1, 3\), not \(1, 4\)",
        ),
        ({"negative_prompt_embeds": torch.zeros(1, 4, 3, 32)}, "of 1 prompts for 2"),
    ],
)
def test_text_that_does_not_go_together(pipe: SemanticRoutingPipeline, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sample(pipe, **options)


def test_the_generator_is_the_scheduler_s_too(pipe: SemanticRoutingPipeline) -> None:
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    one = sample(pipe)
    torch.rand(3)
    assert sample(pipe).equal(one)
    each = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    alone = sample(pipe, PROMPTS[1], generator=[torch.Generator().manual_seed(4)])
    torch.testing.assert_close(sample(pipe, generator=each)[1:], alone, rtol=1e-3, atol=1e-3)


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize(
    ("scheduler", "evaluations"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), 4),
        (diffusers.FlowMatchHeunDiscreteScheduler(), 7),
        (diffusers.FlowMatchLCMScheduler(), 4),
        (diffusers.UniPCMultistepScheduler(**FLOW), 4),
        (diffusers.DPMSolverMultistepScheduler(**FLOW), 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_schedulers_that_follow_a_flow(pipe: SemanticRoutingPipeline, scheduler: Any, evaluations: int) -> None:
    pipe.scheduler = scheduler
    bars: list[Any] = []
    progress_bar = pipe.progress_bar
    pipe.progress_bar = lambda **options: bars.append(progress_bar(**options)) or bars[-1]  # type: ignore[method-assign]
    pipe.set_progress_bar_config(disable=False)
    assert sample(pipe).isfinite().all()
    assert pipe.num_timesteps == evaluations
    assert (bars[0].n, bars[0].total) == (4, 4)


@pytest.mark.parametrize("scheduler", [diffusers.DDIMScheduler(), diffusers.UniPCMultistepScheduler()])
def test_other_schedulers_are_refused(pipe: SemanticRoutingPipeline, scheduler: Any) -> None:
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match="does not follow a flow"):
        sample(pipe)


def test_noise_levels_can_be_given(pipe: SemanticRoutingPipeline) -> None:
    want = sample(pipe)
    sigmas = pipe.scheduler.sigmas[:-1].tolist()
    torch.testing.assert_close(sample(pipe, num_inference_steps=None, sigmas=sigmas), want)
    assert pipe.num_timesteps == 4
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchHeunDiscreteScheduler takes no sigmas"):
        sample(pipe, sigmas=sigmas)


def test_callbacks(pipe: SemanticRoutingPipeline) -> None:
    want = sample(pipe)
    seen: list[Any] = []

    def watch(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        seen.append((pipe.guidance_scale, pipe.do_classifier_free_guidance, pipe.num_timesteps, pipe.attention_kwargs))
        assert pipe.current_timestep == timestep

    assert sample(pipe, callback_on_step_end=watch).equal(want)  # one that returns nothing
    assert seen == [(3.0, True, 4, None)] * 4
    assert pipe.current_timestep is None

    def stop(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(step)
        pipe._interrupt = step == 1
        return tensors

    seen.clear()
    assert not sample(pipe, callback_on_step_end=stop).equal(want)
    assert seen == [0, 1]
    assert sample(pipe).equal(want)


@pytest.mark.parametrize("prompt", [PROMPTS[:1], PROMPTS])
def test_guidance_can_be_cut_off(pipe: SemanticRoutingPipeline, prompt: list[str]) -> None:
    rows: list[int] = []
    pipe.transformer.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    cut = sample(pipe, prompt, callback_on_step_end=cutoff, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    count = len(prompt)
    assert rows == [2 * count, 2 * count, count, count]
    assert not cut.equal(sample(pipe, prompt))


def test_a_callback_may_change_the_text(pipe: SemanticRoutingPipeline) -> None:
    other = pipe.encode_prompt(PROMPTS[::-1], negative_prompt=["", ""])

    def swap(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        embeds = tensors["prompt_embeds"]
        assert embeds.shape[0] == 4
        return {"prompt_embeds": embeds.flip(0)} if step == 0 else {}

    changed = sample(pipe, callback_on_step_end=swap, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert not changed.equal(sample(pipe))
    assert other[0].shape[0] == 2


def test_lora_weights(pipe: SemanticRoutingPipeline, tmp_path: Path) -> None:
    plain = sample(pipe)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    want = sample(pipe)
    half = sample(pipe, attention_kwargs={"scale": 0.5})
    assert not want.equal(plain)
    assert not half.equal(want)
    layers = get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    pipe.transformer.delete_adapters("default")
    assert sample(pipe).equal(plain)
    pipe.load_lora_weights(tmp_path, adapter_name="mine")
    torch.testing.assert_close(sample(pipe), want)
    pipe.set_adapters("mine", 0.5)
    torch.testing.assert_close(sample(pipe), half)
    pipe.set_adapters("mine", 1.0)
    pipe.fuse_lora(["transformer"])
    torch.testing.assert_close(sample(pipe), want, rtol=1e-3, atol=1e-3)
    pipe.unfuse_lora(["transformer"])
    pipe.unload_lora_weights()
    torch.testing.assert_close(sample(pipe), plain, rtol=1e-3, atol=1e-3)


def test_a_pipeline_from_another(pipe: SemanticRoutingPipeline, folder: str, tmp_path: Path) -> None:
    again = SemanticRoutingPipeline.from_pipe(pipe)
    assert again.transformer is pipe.transformer
    assert again.config.max_length == 40
    again.set_progress_bar_config(disable=True)
    assert sample(again).equal(sample(pipe))
    named = SemanticRoutingPipeline(pipe.transformer, pipe.scheduler, text_model=folder)
    SemanticRoutingPipeline.from_pipe(named).save_pretrained(tmp_path)
    assert not (tmp_path / "text_encoder").exists()


def test_any_loader_knows_a_saved_pipeline(pipe: SemanticRoutingPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    assert type(SemanticRoutingPipeline.from_pretrained(tmp_path)) is SemanticRoutingPipeline
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path)) is SemanticRoutingPipeline
    code = (  # in a process that has not imported this package
        "import sys; from diffusers import DiffusionPipeline\n"
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline=sys.argv[1], trust_remote_code=True)\n"
        "assert type(pipe).__name__ == 'SemanticRoutingPipeline', type(pipe)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_single_file_of_weights(pipe: SemanticRoutingPipeline, tmp_path: Path, dtype: torch.dtype | None) -> None:
    pipe.save_pretrained(tmp_path)
    file = (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "moved.safetensors")
    made = SemanticRoutingPipeline.from_single_file(file, config=tmp_path, dtype=dtype)
    for name, tensor in made.transformer.state_dict().items():
        want = pipe.transformer.state_dict()[name]
        kept = dtype is None or name.startswith("fusion.")
        assert tensor.equal(want if kept else want.to(dtype)), name
    made.set_progress_bar_config(disable=True)
    if dtype is None:
        assert sample(made).equal(sample(pipe))


def test_single_files_that_do_not_fit(pipe: SemanticRoutingPipeline, tmp_path: Path) -> None:
    pipe.transformer.save_pretrained(tmp_path)
    load = SemanticRoutingTransformer2DModel.from_single_file
    tensors = pipe.transformer.state_dict()
    assert load(tensors, config=tmp_path).config.num_blocks == pipe.transformer.config.num_blocks
    with pytest.raises(ValueError, match="has no folder with a config"):
        load(tensors)
    renamed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    (name, *_) = tensors
    for changed, sentence in (
        (renamed, r"The dictionary lacks blocks\.0.*sroute convert"),
        (tensors | {"one_more": torch.zeros(1)}, "The dictionary holds one_more"),
        (tensors | {name: torch.zeros(1, 2, 3)}, rf"has {name} of shape \[1, 2, 3\]; the model wants"),
        (tensors | {name: torch.full_like(tensors[name], torch.nan)}, f"holds values in {name} that are infinite"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load(changed, tmp_path)
    with pytest.raises(ValueError, match=r"model\.ckpt is no safetensors file"):
        load(tmp_path / "model.ckpt", tmp_path)
    with pytest.raises(ValueError, match=r"nothing\.safetensors is neither"):
        load(tmp_path / "nothing.safetensors", tmp_path)


def test_caches_know_the_step(pipe: SemanticRoutingPipeline) -> None:
    nn.init.normal_(pipe.transformer.proj_out.weight)
    times: list[float] = []

    def callback(*_: Any) -> dict[str, Tensor]:
        times.append(float(pipe.current_timestep))
        return {}

    sample(pipe, callback_on_step_end=callback)
    assert times == pipe.scheduler.timesteps.tolist()
