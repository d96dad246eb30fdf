"""The lines of docs/hosts.md, run."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from nbclient import NotebookClient
from tiny import normal
from tiny_hosts import PROMPTS, make_host

from semantic_routing.adapters import HOSTS, add_routing, find_routing, remove_routing, save_routing
from semantic_routing.analysis.base import choose
from semantic_routing.analysis.model import SavedModel
from semantic_routing.pipelines.saved import find_pipeline

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
    readme = re.findall(r"```python\n(.*?)```", (DOCS.parents[1] / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    short = next(block for block in readme if "load_routing" in block)
    assert len(short.strip().splitlines()) <= 10
    (tmp_path / "my-run").mkdir()
    (tmp_path / "my-run" / "routing").symlink_to(tmp_path / "my-routing")
    exec(short, {})
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


def test_the_fusion_of_an_adapter_is_analyzed_without_its_host(tmp_path: Path) -> None:
    pipe = add_routing(make_host("SanaPipeline").pipe, "depth-wise", layers=[0, 2, 3])
    torch.nn.init.normal_(find_routing(pipe).fusion.beta)
    save_routing(pipe, tmp_path / "routing")
    model = SavedModel(find_pipeline(str(tmp_path / "routing")))
    weights = model.result("weights")["weights"]
    assert weights.axes["layer"] == [0, 2, 3]
    expected = torch.softmax(find_routing(pipe).fusion.beta.double(), -1)
    torch.testing.assert_close(torch.from_numpy(weights.values), expected.detach())
    analyses, left_out = choose([], model)
    assert "weights" in analyses
    assert any("prompt makes images" in sentence and "--routing" in sentence for sentence in left_out)
    with pytest.raises(ValueError, match="usage makes images"):
        choose(["usage"], model)
    remove_routing(pipe)
    add_routing(pipe, "token-wise")
    save_routing(pipe, tmp_path / "by-token")
    with pytest.raises(ValueError, match="name the host's pipeline"):
        SavedModel(find_pipeline(str(tmp_path / "by-token"))).result("weights")


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(DOCS.parents[1] / "examples" / "adapt_a_host.ipynb", as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "run" / "routing" / "routing.safetensors").is_file()
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-1].outputs)
