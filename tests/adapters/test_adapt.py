"""Training in a host: by the loop of all runs, and by the host's own scheduler."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from tiny import normal, write_images
from tiny_hosts import EULER, LENGTH, PROMPTS, TinyHost, first, make_host, with_packing_vae, with_vae

from semantic_routing.adapters import find_routing, load_routing, remove_routing
from semantic_routing.adapters.call import host_call, own_time, runs_backward
from semantic_routing.adapters.hosts import find_host
from semantic_routing.adapters.remember import remember
from semantic_routing.training import AdaptConfig, adapt, adapt_config, host
from semantic_routing.training.config import load_config
from semantic_routing.training.noising import DiffusionNoising, FlowNoising, make_noising
from semantic_routing.training.precompute import precompute

Adapted = Callable[..., AdaptConfig]
SHORT = {"max_sequence_length": LENGTH}


@pytest.fixture
def make_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Adapted:
    """A run in a tiny host, which is made anew for each run as one that is loaded would be."""

    def config(name: str, run: str = "run", *changes: str) -> AdaptConfig:
        monkeypatch.setattr(host, "load_host", lambda name_, dtype: with_vae(name))
        without = name.startswith("StableDiffusion") or name == "HunyuanDiTPipeline"
        length = SHORT if name != "Kandinsky5T2IPipeline" else {"max_sequence_length": 500}  # it cuts by decoding
        options = [] if without else [f"host.options={json.dumps(length)}"]
        own = ["data.image_size=32", "training.steps=20", "training.batch_size=2", "training.log_every=1"]
        fast = ["optimizer.warmup_steps=0", "optimizer.fusion_learning_rate=0.05", "training.checkpoint_every=10"]
        return adapt_config("tiny", "scenes", tmp_path / run, [*own, *fast, *options, *changes])

    return config


HOSTS = [
    "PixArtSigmaPipeline",
    "HunyuanDiTPipeline",
    "WanPipeline",
    "Cosmos2TextToImagePipeline",
    "Kandinsky5T2IPipeline",
    "StableDiffusionXLPipeline",
    "Lumina2Pipeline",
    "StableDiffusion3Pipeline",
]


@pytest.mark.parametrize("name", HOSTS)
def test_the_fusion_alone_is_trained(make_config: Adapted, name: str) -> None:
    run = adapt(make_config(name, "run", "training.steps=4", "training.checkpoint_every=4"))
    weights = load_file(run / "checkpoint-00000004" / "model.safetensors")
    assert {key for key in weights if not key.startswith("fusion.")} <= {"host.pos_embed.pos_embed"}  # a buffer
    assert weights["fusion.gain"].all()
    pipe = with_vae(name)
    untouched = pipe.components.get("unet", pipe.components.get("transformer")).state_dict()
    load_routing(pipe, run / "routing")
    again = with_vae(name)
    assert find_routing(pipe).gain.any()
    remove_routing(pipe)
    model = again.components.get("unet", again.components.get("transformer"))
    assert all(untouched[key].equal(value) for key, value in model.state_dict().items())


def test_ten_steps_and_ten_more_are_twenty_and_load_in_a_new_process(make_config: Adapted, tmp_path: Path) -> None:
    name = "StableDiffusionPipeline"
    images = ["validation.every=20", "validation.prompts=[a red circle]", "validation.num_inference_steps=2"]
    whole = adapt(make_config(name, "whole", *images))
    assert (whole / "samples" / "step-00000020.png").is_file()
    parts = make_config(name, "parts", "training.keep_checkpoints=1")
    monkey = pytest.MonkeyPatch()
    step = host.Trainer._optimizer_step

    def stop(trainer: Any, batches: Any) -> Any:
        trainer.stop = trainer.stop or trainer.step == 9
        return step(trainer, batches)

    monkey.setattr(host.Trainer, "_optimizer_step", stop)
    adapt(parts)
    monkey.undo()
    assert [path.name for path in parts.training.output.glob("checkpoint-*")] == ["checkpoint-00000010"]
    adapt(parts, "latest")
    last = "checkpoint-00000020"
    for file in ("model", "ema", "optimizer"):
        one, other = (load_file(run / last / f"{file}.safetensors") for run in (whole, parts.training.output))
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one)
    tiny = make_host(name)
    load_routing(tiny.pipe, whole / "routing")
    torch.save(tiny.run(), tmp_path / "output.pt")
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "from tiny_hosts import make_host\n"
        "from semantic_routing.adapters import load_routing\n"
        "host = make_host('StableDiffusionPipeline')\n"
        "load_routing(host.pipe, f'{sys.argv[1]}/whole/routing')\n"
        "assert host.run().equal(torch.load(f'{sys.argv[1]}/output.pt'))\n"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(tmp_path), str(here), str(here.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_loras_and_the_host_itself_can_be_trained(make_config: Adapted) -> None:
    name = "PixArtSigmaPipeline"
    few = ("training.steps=2", "training.checkpoint_every=2", "host.fusion=null")
    lora = adapt(make_config("SanaPipeline", "lora", *few, "host.lora_rank=2", "optimizer.learning_rate=0.1"))
    tiny = make_host("SanaPipeline")
    plain = tiny.run()
    tiny.model.load_lora_adapter(lora / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors")
    assert not tiny.run().equal(plain)
    assert not (lora / "routing").exists()
    text = adapt(make_config(name, "text", *few, "host.trained=text", "optimizer.learning_rate=0.1"))
    before = make_host(name).model.state_dict()
    after = load_file(text / "model" / "diffusion_pytorch_model.safetensors")
    moved = {key for key, value in after.items() if not value.equal(before[key])}
    assert moved
    assert all(".attn2." in key or key.startswith("caption_projection") for key in moved)


def test_a_host_is_called_as_its_pipeline_calls_it(make: Callable[[str], TinyHost]) -> None:
    for name in ("PixArtSigmaPipeline", "StableDiffusion3Pipeline"):
        tiny = make(name)
        tiny.pipe.set_progress_bar_config(disable=True)
        wanted = tiny.inputs()
        call = host_call(tiny.pipe, PROMPTS, 64, 64, **SHORT)
        assert call.image_shape == (2, 4, 8, 8)
        image = next(name for name in wanted if name in ("hidden_states", "sample"))
        args, kwargs = call.at(wanted[image], wanted["timestep"])
        assert first(tiny.model(*args, **kwargs | {"return_dict": False})).equal(tiny.run())


@pytest.mark.parametrize("name", ["PixArtSigmaPipeline", "SanaPipeline", "FluxPipeline", "Lumina2Pipeline"])
def test_a_host_s_time_is_the_inverse_of_its_row(make: Callable[[str], TinyHost], name: str) -> None:
    from semantic_routing.adapters.hosts import TIMES, config_of

    model = make(name).model
    row, timestep = find_host(model), torch.tensor([0.0, 250.0, 1000.0])
    own = own_time(row, model, timestep)
    torch.testing.assert_close(TIMES[row.time](own, config_of(model)), timestep)
    assert runs_backward(row, model) == (name == "Lumina2Pipeline")


def test_noise_is_added_as_the_host_s_scheduler_does() -> None:
    data, noise, timestep = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1), torch.tensor([250.0, 999.0])
    flow = make_noising(EULER(shift=3.0), None)
    assert isinstance(flow, FlowNoising)
    assert flow.flow.shift == 3.0
    torch.testing.assert_close(flow.noisy(data, noise, timestep)[0], 0.75 * data[0] + 0.25 * noise[0])
    assert flow.target(data, noise, timestep).equal(noise - data)
    for kind, target in (("epsilon", noise), ("sample", data), ("v_prediction", None)):
        scheduler = diffusers.DDIMScheduler(prediction_type=kind)
        diffusion = make_noising(scheduler, None)
        assert isinstance(diffusion, DiffusionNoising)
        alpha = scheduler.alphas_cumprod[timestep.long()].view(2, 1, 1, 1)
        noisy = diffusion.noisy(data, noise, timestep)
        torch.testing.assert_close(noisy, alpha.sqrt() * data + (1 - alpha).sqrt() * noise)
        found = diffusion.target(data, noise, timestep)
        wanted = alpha.sqrt() * noise - (1 - alpha).sqrt() * data if target is None else target
        torch.testing.assert_close(found, wanted)
    drawn = diffusion.draw([torch.Generator().manual_seed(seed) for seed in range(50)])
    assert drawn.min() < 200
    assert drawn.max() > 800


@pytest.mark.parametrize("name", ["FluxPipeline", "ChromaPipeline", "QwenImagePipeline"])
def test_hosts_that_take_latents_as_tokens(make_config: Adapted, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = make_config(name, "run", "training.steps=2")
    pipe = with_packing_vae(name)
    monkeypatch.setattr(host, "load_host", lambda name, dtype: pipe)
    adapt(config)
    assert find_routing(pipe).gain.any()


def test_texts_are_encoded_once(make: Callable[[str], TinyHost]) -> None:
    tiny = make("StableDiffusionPipeline")
    want, calls = tiny.inputs()["encoder_hidden_states"], []
    forward = tiny.encoder.forward
    tiny.encoder.forward = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    remember(tiny.encoder, 2)
    torch.testing.assert_close(tiny.inputs()["encoder_hidden_states"], want)
    tiny.inputs(PROMPTS[::-1])
    assert len(calls) == 2
    tiny.inputs(["a star"])
    tiny.inputs(PROMPTS[1:])
    assert len(calls) == 4  # the one used longest ago is gone


def test_latents_computed_ahead_give_what_images_give(make_config: Adapted, tmp_path: Path) -> None:
    captions, few = write_images(tmp_path / "set"), ("training.steps=2", "training.checkpoint_every=2")
    with_vae("PixArtSigmaPipeline").vae.save_pretrained(tmp_path / "tiny" / "vae")
    own = [f"vae.model={tmp_path / 'tiny'}", "vae.subfolder=vae", "vae.downsampling=2", "data.image_size=32"]
    ahead = load_config("images/latents", [*own, f"data.source.path={captions}", "data.num_workers=0"])
    precompute(ahead, tmp_path / "ahead", 3, torch.device("cpu"))
    sources = {
        "images": f"data.source={{source: json, path: {captions}}}",
        "latents": f"data.source={{source: latents, path: {tmp_path / 'ahead'}}}",
    }
    gains = []
    for run, source in sources.items():
        adapt(make_config("PixArtSigmaPipeline", run, *few, source, f"host.pipeline={tmp_path / 'tiny'}"))
        gains.append(load_file(tmp_path / run / "routing" / "routing.safetensors")["gain"])
    assert gains[0].any()
    torch.testing.assert_close(gains[0], gains[1], rtol=1e-3, atol=1e-6)
    with_vae("HunyuanDiTPipeline").vae.save_pretrained(tmp_path / "tiny" / "vae")
    with pytest.raises(ValueError, match="holds latents of a VAE with sha256"):
        adapt(make_config("PixArtSigmaPipeline", "other", sources["latents"], f"host.pipeline={tmp_path / 'tiny'}"))
    with pytest.raises(ValueError, match="and the host has AutoencoderKLWan"):
        adapt(make_config("WanPipeline", "wan", sources["latents"]))


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("StableDiffusionPipeline", ["optimizer.muon_learning_rate=0.01"], "host.trained is 'nothing'"),
        ("StableDiffusionPipeline", ["host.fusion=null"], "nothing would be trained"),
        ("StableDiffusionPipeline", ["host.lora_rank=2", "host.trained=text"], "a LoRA stands for"),
        ("StableDiffusionPipeline", ["host.trained=all", "host.dtype=bfloat16"], "needs host.dtype float32"),
        ("StableDiffusionPipeline", ["training.initialize_from=demo"], "is for models of our own"),
        ("StableDiffusionPipeline", ["flow={}"], "the scheduler is DDIMScheduler"),
        ("SanaSprintPipeline", [], "'trigflow' cannot be trained for"),
        ("PixArtSigmaPipeline", ["host.lora_rank=2"], "takes no LoRA in diffusers"),
        ("LTXPipeline", [], "it makes videos, from rows of latents"),
    ],
)
def test_what_cannot_be_trained(make_config: Adapted, name: str, changes: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        adapt(make_config(name, "run", *changes))


def test_another_architecture_is_not_resumed(make_config: Adapted) -> None:
    few = ("training.steps=1", "training.checkpoint_every=1")
    adapt(make_config("StableDiffusionPipeline", "run", *few))
    with pytest.raises(ValueError, match=r"trained with host\.fusion='depth-wise'; the config says 'static'"):
        adapt(make_config("StableDiffusionPipeline", "run", *few, "host.fusion=static"), "latest")
