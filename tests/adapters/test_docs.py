"""The lines of docs/hosts.md, run."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from tiny import normal
from tiny_hosts import PROMPTS, make_host

from semantic_routing.adapters import HOSTS, add_routing, find_routing

DOCS = Path(__file__).parents[2] / "docs" / "hosts.md"


def test_the_ten_lines(vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, use = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    steps = train.split("\n\n")[-1].strip().splitlines()
    assert len(steps) <= 10
    host = make_host("StableDiffusionPipeline").pipe
    host.register_modules(vae=AutoencoderKL.from_pretrained(vae_folder))
    host.scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    monkeypatch.chdir(tmp_path)
    host.save_pretrained("host")
    scope: dict[str, Any] = {"batches": [(normal(2, 4, 8, 8, seed=seed), PROMPTS) for seed in range(3)]}
    exec(train, scope)
    assert find_routing(scope["pipe"]).gain.any()
    frozen = StableDiffusionPipeline.from_pretrained("host").unet.state_dict()
    assert all(frozen[name].equal(tensor) for name, tensor in scope["pipe"].unet.state_dict().items())
    exec(use, scope)
    assert scope["image"].size == (16, 16)
    assert find_routing(scope["pipe"]).scale == 0.8


def test_every_host_is_in_the_docs() -> None:
    assert all(f"`{host.model}`" in DOCS.read_text(encoding="utf-8") for host in HOSTS)


def test_clip_skip_is_refused() -> None:
    host = make_host("StableDiffusionXLPipeline")
    add_routing(host.pipe)
    text = host.pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False, clip_skip=1)[0]
    with torch.no_grad(), pytest.raises(ValueError, match="not of 48"):
        host.model(**host.inputs() | {"encoder_hidden_states": text})
