"""What a user of a routed host relies on, shown on a few of them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiTTransformer2DModel, Flux2Transformer2DModel, UNet2DConditionModel
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig
from tiny import normal
from tiny_hosts import CHANNELS, LAYERS, LENGTH, PROMPTS, SANA, TinyHost, first, make_host, sana, t5
from torch import nn

from semantic_routing.adapters import (
    add_routing,
    attach,
    capture,
    detach,
    find_routing,
    load_routing,
    release,
    remove_routing,
    save_routing,
    set_fusion_scale,
    set_routing_scale,
    widen,
)
from semantic_routing.adapters.hosts import TIMES
from semantic_routing.fusion import FUSIONS, FusionSizes, Prepared, TextFusion

Make = Callable[[str], TinyHost]


def routed(name: str, fusion: str = "depth-wise", gain: float = 0.5, **options: Any) -> TinyHost:
    """A host with a routing that shows."""
    host = make_host(name)
    add_routing(host.pipe, fusion, **options)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in find_routing(host.pipe).fusion.parameters():
            nn.init.normal_(parameter)
    nn.init.constant_(find_routing(host.pipe).gain, gain)
    return host


def sample(host: TinyHost, **more: Any) -> torch.Tensor:
    host.pipe.set_progress_bar_config(disable=True)
    options = {"prompt": PROMPTS[0], "num_inference_steps": 3, "output_type": "latent", "max_sequence_length": LENGTH}
    options |= {"use_resolution_binning": False} | more
    generator = torch.Generator().manual_seed(0)
    return host.pipe(generator=generator, height=64, width=64, return_dict=False, **options)[0]


def test_a_fusion_scale_of_0_reads_all_layers_evenly() -> None:
    host = routed("PixArtSigmaPipeline", gain=0.3)
    trained = sample(host)
    set_fusion_scale(host.pipe, 0.0)
    even = sample(host)
    set_fusion_scale(host.pipe, 1.0)
    assert sample(host).equal(trained)
    nn.init.zeros_(find_routing(host.pipe).fusion.beta)
    torch.testing.assert_close(sample(host), even)
    assert (even - trained).abs().max() > 1e-4


def test_the_context_is_the_mixture_at_the_host_s_scale() -> None:
    """What a block reads, written out: c + P(e + s g |e| F) − P(e)."""
    host = routed("PixArtSigmaPipeline", gain=0.3)
    set_routing_scale(host.pipe, 2.0)
    routing, seen = find_routing(host.pipe), []
    # Hooks run in the order in which they were registered: this one sees what the block reads.
    host.model.transformer_blocks[1].attn2.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    host.run()
    inputs = host.inputs()
    wide, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"].bool()
    text, layers = wide[..., :CHANNELS], wide[..., CHANNELS:].unflatten(-1, (LAYERS, CHANNELS)).double()
    alpha = torch.softmax(routing.fusion.beta.double(), -1)[1]
    fused = (alpha[:, None] * nn.functional.layer_norm(layers, (CHANNELS,))).sum(2)
    size = text.double().square().mean(-1, keepdim=True).sqrt()
    expected = host.model.caption_projection((text + 2.0 * 0.3 * size * fused).float())
    torch.testing.assert_close(seen[0][mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_layers_are_the_encoder_s_own() -> None:
    host = make_host("Lumina2Pipeline")
    plain = host.inputs()["encoder_hidden_states"]
    capture(host.encoder, [1, 3], reads=-2)
    wide = host.inputs()["encoder_hidden_states"]
    with pytest.raises(ValueError, match="delivers its layers already"):
        capture(host.encoder, [1])
    release(host.encoder)
    assert host.inputs()["encoder_hidden_states"].equal(plain)
    ids = host.pipe.tokenizer(
        [f"a <Prompt Start> {prompt}" for prompt in PROMPTS],
        padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt",
    )  # fmt: skip
    states = host.encoder(**ids, output_hidden_states=True).hidden_states
    assert wide.equal(torch.cat([states[2], states[1], states[3]], dim=-1))
    assert wide.equal(widen(plain, torch.stack([states[1], states[3]], dim=1)))


@pytest.mark.parametrize("name", ["PixArtSigmaPipeline", "SanaPipeline"])
def test_a_routed_pipeline_is_called_as_before(name: str) -> None:
    host = make_host(name)
    template = {"complex_human_instruction": None} if name == "SanaPipeline" else {}
    plain = sample(host, **template)
    add_routing(host.pipe)
    assert sample(host, **template).equal(plain)
    nn.init.constant_(find_routing(host.pipe).gain, 0.5)
    moved = sample(host, **template)
    assert not moved.equal(plain)
    text = host.pipe.encode_prompt(PROMPTS[0], max_sequence_length=LENGTH)
    names = "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"
    given = dict(zip(names, text, strict=True))
    assert sample(host, prompt=None, negative_prompt=None, **given).equal(moved)
    remove_routing(host.pipe)
    assert sample(host, **template).equal(plain)


def test_text_is_fused_and_projected_once_a_prompt() -> None:
    host, calls = routed("PixArtSigmaPipeline"), []
    host.model.caption_projection.register_forward_hook(lambda *_: calls.append(1))
    once = sample(host)
    assert len(calls) == 3 + 1 + 2  # the host's own in each step; ours at the origin and for two blocks
    calls.clear()
    routing = find_routing(host.pipe)
    routing._fused.clear()
    inputs = host.inputs()
    with torch.no_grad():
        first(host.model(**inputs, return_dict=False))
        kept = first(host.model(**inputs, return_dict=False))
        assert len(calls) == 2 + 3
        nn.init.constant_(routing.gain, 0.1)
        assert not first(host.model(**inputs, return_dict=False)).equal(kept)  # what changed is not served from before
        set_routing_scale(host.pipe, 5.0)
        assert first(host.model(**inputs, return_dict=False)).equal(host.run())
    assert once.isfinite().all()


@pytest.mark.parametrize("fusion", [name for name in FUSIONS if not name.startswith("test-by-state")])
def test_fusions_of_the_gallery(fusion: str, tmp_path: Path) -> None:
    host = make_host("SanaPipeline")
    untouched = host.run()
    if FUSIONS[fusion].varies_with - {"block", "token", "timestep"}:
        with pytest.raises(ValueError, match="varies with the"):
            add_routing(host.pipe, fusion)
        return
    add_routing(host.pipe, fusion)
    assert host.run().equal(untouched)
    nn.init.constant_(find_routing(host.pipe).gain, 0.5)
    moved = host.run()
    assert not moved.equal(untouched)
    save_routing(host.pipe, tmp_path)
    remove_routing(host.pipe)
    load_routing(host.pipe, tmp_path)
    assert host.run().equal(moved)


class Wide(TextFusion):
    """All layers side by side: a context that is wider than a layer."""

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)

    @property
    def out_channels(self) -> int:
        return self.sizes.num_layers * (self.sizes.text_channels or 0)

    def forward(self, prepared: Prepared, moment: Any) -> torch.Tensor:
        return prepared.features.transpose(1, 2).flatten(2)[None]


def test_a_wider_context_is_narrowed() -> None:
    if "test-wide" not in FUSIONS:
        FUSIONS.register("test-wide")(Wide)
    host = make_host("PixArtSigmaPipeline")
    untouched = host.run()
    add_routing(host.pipe, "test-wide")
    assert host.run().equal(untouched)
    nn.init.constant_(find_routing(host.pipe).gain, 0.5)
    assert not host.run().equal(untouched)


def test_a_timestep_is_brought_to_one_scale() -> None:
    time = torch.tensor([0.25])
    assert TIMES["sigma"](time, {}).item() == 250
    assert TIMES["flow time"](time, {}).item() == 750
    assert TIMES["timestep x scale"](time, {"timestep_scale": 0.001}).item() == pytest.approx(250)
    host = routed("Lumina2Pipeline", "joint")
    inputs = host.inputs()
    seen: list[float] = []
    host_fusion = find_routing(host.pipe).fusion
    host_fusion.register_forward_pre_hook(lambda module, args: seen.extend(args[1].timestep.tolist()))
    host.model(**inputs | {"timestep": torch.tensor([0.0, 1.0])})
    assert seen == [1000, 0]  # noise, then data


def test_saving_and_lora_of_a_routed_host(tmp_path: Path) -> None:
    host = routed("SanaPipeline")
    want = host.run()
    host.model.save_pretrained(tmp_path)
    again = type(host.model).from_pretrained(tmp_path)
    assert again.state_dict().keys() == host.model.state_dict().keys()
    host.model.add_adapter(LoraConfig(r=2, target_modules=["to_k", "linear_1"], init_lora_weights=False))
    with_lora = host.run()
    assert not with_lora.equal(want)
    host.model.disable_adapters()
    assert host.run().equal(want)


@pytest.mark.parametrize("name", ["PixArtSigmaPipeline", "WanPipeline", "SanaPipeline", "FluxPipeline"])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level", "accelerate"])
def test_offloading(name: str, kind: str) -> None:
    host = routed(name)
    want = host.run()
    inputs = host.inputs()
    if kind == "accelerate":
        cpu_offload(host.model, torch.device("cpu"))  # weights are meta tensors while nothing runs
    else:
        groups = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        apply_group_offloading(host.model, torch.device("cpu"), torch.device("cpu"), kind, **groups)
    assert first(host.model(**inputs, return_dict=False)).equal(want)


def test_half_precision() -> None:
    host = make_host("SanaPipeline")
    host.pipe.to(torch.bfloat16)
    inputs = {name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
              for name, value in host.inputs().items()}  # fmt: skip
    untouched = first(host.model(**inputs, return_dict=False))
    add_routing(host.pipe)
    wide = host.inputs()["encoder_hidden_states"]
    assert wide.dtype == torch.bfloat16
    inputs["encoder_hidden_states"] = wide
    assert first(host.model(**inputs, return_dict=False)).equal(untouched)
    nn.init.constant_(find_routing(host.pipe).gain, 0.5)
    moved = first(host.model(**inputs, return_dict=False))
    assert moved.dtype == torch.bfloat16
    assert not moved.equal(untouched)
    assert find_routing(host.pipe).gain.dtype == torch.float32


COMPILED = """
import sys, torch, diffusers
diffusers.logging.set_verbosity_error()
sys.path[:0] = sys.argv[1:]
import tiny_hosts
from semantic_routing.adapters import add_routing, find_routing

tiny_hosts.HEADS["num_layers"] = 5
for name in ("PixArtSigmaPipeline", "FluxPipeline"):
    counts = []
    for routed in (False, True):
        torch._dynamo.reset()
        host = tiny_hosts.make_host(name)
        if routed:
            add_routing(host.pipe)
            torch.nn.init.constant_(find_routing(host.pipe).gain, 0.5)
        with torch.no_grad():
            want = host.run()
        graphs = []
        backend = lambda graph, _: graphs.append(graph) or graph.forward
        # `fullgraph` makes a graph break an error.
        for block in host.model.transformer_blocks:
            block.compile(backend=backend, fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(host.run(), want, rtol=1e-4, atol=1e-5)
        counts.append(len(graphs))
    assert counts[1] <= counts[0] + 2, (name, counts)  # the blocks share their graphs as without routing
"""


def test_compiled_blocks_read_the_fusion_s_context() -> None:
    # In a process of its own: the compiler cannot look through the run-time checks of shapes.
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", COMPILED, str(here), str(here.parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_file_of_an_adapter_is_small(tmp_path: Path) -> None:
    host = sana()
    model = type(host.model)(**SANA | {"num_layers": 24})
    encoder = t5()
    encoder.config.num_layers = 36
    attach(model, encoder)
    save_routing(model, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000


def test_refusals(make: Make, tmp_path: Path) -> None:
    host = make("PixArtSigmaPipeline")
    with pytest.raises(ValueError, match="is not routed"):
        find_routing(host.pipe)
    with pytest.raises(ValueError, match="is not routed"):
        detach(host.model)
    with pytest.raises(ValueError, match="Unknown fusion strategy 'no-such'"):
        add_routing(host.pipe, "no-such")
    with pytest.raises(ValueError, match="Layer 4 is out of range"):
        add_routing(host.pipe, layers=[1, 4])
    narrow = host.inputs()
    add_routing(host.pipe)
    with pytest.raises(ValueError, match="routed already"):
        add_routing(host.pipe)
    with pytest.raises(ValueError, match=r"takes encoder_hidden_states of 128 channels.* not of 32"):
        host.model(**narrow)
    set_routing_scale(host.pipe, 0.0)
    host.model(**narrow)  # at scale 0 it is the host, and takes the host's text too
    save_routing(host.pipe, tmp_path)
    with pytest.raises(ValueError, match="trained in a PixArtTransformer2DModel, not in a SanaTransformer2DModel"):
        load_routing(make("SanaPipeline").pipe, tmp_path)
    other = make("PixArtSigmaPipeline")
    other.model.register_to_config(num_layers=3)
    with pytest.raises(ValueError, match="of another configuration: the digest of this one"):
        load_routing(other.pipe, tmp_path)
    with pytest.raises(ValueError, match="neither the folder of a routing nor a hub name"):
        load_routing(other.pipe, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no routing\.safetensors"):
        load_routing(other.pipe, tmp_path / "empty")


def test_an_adapter_of_an_unregistered_fusion_says_where_it_is_defined(make: Make, tmp_path: Path) -> None:
    host = make("PixArtSigmaPipeline")
    add_routing(host.pipe)
    save_routing(host.pipe, tmp_path)
    config = tmp_path / "routing_config.json"
    config.write_text(config.read_text().replace('"depth-wise"', '"mine"'))
    with pytest.raises(ValueError, match=r"'mine', which is not registered: import semantic_routing\.fusion\.routed"):
        load_routing(make("PixArtSigmaPipeline").pipe, tmp_path)


def test_models_that_cannot_be_hosts_say_why() -> None:
    encoder = t5()
    with pytest.raises(ValueError, match="reads class labels"):
        attach(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8), encoder)
    with torch.device("meta"):
        flux = Flux2Transformer2DModel(num_layers=1, num_single_layers=1)
    with pytest.raises(ValueError, match="many layers of its text encoder by itself"):
        attach(flux, encoder)
    with pytest.raises(ValueError, match=r"Linear is not in the table of hosts"):
        attach(nn.Linear(1, 1), encoder)
    host = make_host("StableDiffusionPipeline")
    small = t5()
    small.config.d_model = 16
    with pytest.raises(ValueError, match="reads text of 32 channels, but the text encoder has 16"):
        attach(host.model, small)
    with pytest.raises(ValueError, match="Linear gives no hidden states"):
        attach(host.model, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="no block that reads text"):
        attach(
            UNet2DConditionModel(
                8, block_out_channels=(8,), norm_num_groups=4, cross_attention_dim=32, mid_block_type=None,
                down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
            ),
            encoder,
        )  # fmt: skip


def test_a_pipeline_with_other_readers_of_its_text_is_refused(make: Make) -> None:
    host = make("WanPipeline")
    host.pipe.transformer_2 = host.pipe.transformer
    with pytest.raises(ValueError, match="WanPipeline with a transformer_2 cannot be routed"):
        add_routing(host.pipe)
    host = make("SanaPipeline")
    host.pipe.text_encoder = None
    with pytest.raises(ValueError, match="has no text_encoder"):
        add_routing(host.pipe)


def test_an_image_context_comes_before_the_text_of_a_video_model() -> None:
    """Wan's image-to-video model puts image tokens first: they are left alone."""
    from semantic_routing.adapters.hooks import Argument
    from semantic_routing.adapters.routing import TextReader

    reader, tokens, residual = TextReader(Argument("text", 0), False), normal(2, 7, 4), normal(2, 5, 4, seed=1)
    moved = reader.add(tokens, residual)
    assert moved[:, :2].equal(tokens[:, :2])
    assert moved[:, 2:].equal(tokens[:, 2:] + residual)
    reader.residual = residual
    call = reader.before(torch.nn.Identity(), ((tokens, None),), {})
    assert call is not None
    assert call[0][0][0].equal(moved)
