"""The jobs that `faults` interrupts: each goes on when it is started again, or leaves nothing that looks complete."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from semantic_routing.data.caption import CaptionOptions, caption_images
from semantic_routing.data.pack import pack
from semantic_routing.data.sources import FolderSource
from semantic_routing.experiments.ablation import AblationOptions, make_trials, run_ablation
from semantic_routing.interop import convert_to_reference
from semantic_routing.io.chat import ChatClient
from semantic_routing.io.files import read_json_object, sha256
from semantic_routing.io.jsonl import read_lines
from semantic_routing.models.tiny_vae import tiny_vae
from semantic_routing.text.tiny import tiny_tokenizer
from semantic_routing.training import adapt, adapt_config, train
from semantic_routing.training.checkpoint import find_checkpoint, list_checkpoints
from semantic_routing.training.config import Config
from semantic_routing.training.export import export_pipeline
from semantic_routing.training.precompute import precompute

from .fault_inputs import Samples
from .fault_kills import Contents, Job


def all_jobs(samples: Samples, config: Config, folder: Path) -> list[Job]:
    """Training in one process first.

    Args:
        samples: what jobs read.
        config: of training.
        folder: for what they read beside it.
    """
    return [
        training_job(config),
        training_job(config, 2),
        precompute_job(config),
        pack_job(config),
        export_job(samples.checkpoint),
        convert_job(samples.pipeline),
        caption_job(samples.records),
        ablation_job(samples.config),
        adapt_job(samples.records, write_host(folder / "host")),
    ]


def training_job(config: Config, processes: int = 1) -> Job:
    """Training, which goes on from its latest checkpoint."""

    def work(folder: Path) -> None:
        train(_into(config, folder), _resumed(folder))

    name = f"training, {processes} process{'es' * (processes > 1)}"
    return Job(name, work, _run_contents, _run_faults, processes)


def adapt_job(records: Path, host: Path) -> Job:
    """Training in a host, which leaves the trained fusion, and the host's model of which a part was trained."""
    training = ["training.steps=12", "training.batch_size=2", "training.log_every=1", "training.checkpoint_every=2"]
    changes = ["data.image_size=16", "host.trained=text", "optimizer.warmup_steps=0", *training]
    changes.append('host.options={"max_sequence_length": 10, "use_resolution_binning": false}')

    def work(folder: Path) -> None:
        adapt(adapt_config(str(host), str(records), folder, changes), _resumed(folder))

    def contents(folder: Path) -> Contents:
        return _run_contents(folder) | digests(folder / "routing") | digests(folder / "model")

    return Job("adapt", work, contents, _run_faults)


def _into(config: Config, folder: Path) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"output": folder})})


def _resumed(folder: Path) -> str | None:
    return "latest" if list_checkpoints(folder) else None


def _lines(folder: Path) -> list[dict[str, object]]:
    """The metrics of a run, without what tells of the machine."""
    told = ("images_per_second", "data_wait")
    return [
        {key: value for key, value in line.items() if key not in told} for line in read_lines(folder / "metrics.jsonl")
    ]


def _run_contents(folder: Path) -> Contents:
    return digests(find_checkpoint(folder, "latest")) | {"metrics": str(_lines(folder))}


def _run_faults(folder: Path, wanted: Contents) -> Iterator[str]:
    for path in folder.glob("checkpoint-*"):
        if path.suffix != ".partial":
            try:
                find_checkpoint(folder, path.name)
            except ValueError as error:
                yield f"looks complete: {error}"
    steps = [line["step"] for line in _lines(folder)]
    if steps != list(range(1, len(steps) + 1)):
        yield f"{folder} has metrics of the steps {steps}"


def ablation_job(config: Path) -> Job:
    """Two strategies trained, exported, sampled and scored."""
    changes = ["data.source={source: scenes}", "data.image_size=32", "training.steps=6", "training.keep_checkpoints=1"]
    options = AblationOptions(prompts_per_half=1, steps=2, batch_size=8, skills=("single_object", "colors"))

    def work(folder: Path) -> None:
        run_ablation(make_trials(str(config), changes, ["uniform", "joint"], [0], folder), options)

    def contents(folder: Path) -> Contents:
        found: Contents = {}
        for trial in folder.glob("*/seed-0"):
            parts = _run_contents(trial / "run") | digests(trial / "pipeline" / "transformer")
            parts |= {"values": str(read_json_object(trial / "scenes" / "result.json")["values"])}
            found |= {f"{trial.parent.name}/{name}": digest for name, digest in parts.items()}
        return found

    def faults(folder: Path, wanted: Contents) -> Iterator[str]:
        for run in folder.glob("*/seed-0/run"):
            yield from _run_faults(run, wanted)

    return Job("ablate", work, contents, faults)


def export_job(checkpoint: Path) -> Job:
    """Making a pipeline of a checkpoint, which begins anew."""

    def work(folder: Path) -> None:
        if not (folder / "pipeline").exists():
            export_pipeline(checkpoint, folder / "pipeline")

    return Job("export", work, lambda folder: digests(folder / "pipeline"), _whole_or_not("pipeline"))


def convert_job(pipeline: Path) -> Job:
    """A pipeline as a checkpoint of the reference, which begins anew."""

    def work(folder: Path) -> None:
        if not (folder / "reference").exists():
            convert_to_reference(pipeline, folder / "reference")

    return Job("convert", work, lambda folder: digests(folder / "reference"), _whole_or_not("reference"))


def _whole_or_not(name: str) -> Callable[[Path, Contents], Iterator[str]]:
    def faults(folder: Path, wanted: Contents) -> Iterator[str]:
        if (folder / name).exists() and digests(folder / name) != wanted:
            yield f"{folder / name} looks complete and is not"

    return faults


def precompute_job(config: Config) -> Job:
    """Latents and features ahead on two processes, which go on with their next shards."""

    def work(folder: Path) -> None:
        precompute(config, folder, 4, torch.device("cpu"), text=True)

    return Job("precompute", work, digests, _no_other_files, processes=2)


def pack_job(config: Config) -> Job:
    """Tar shards, written by two processes."""

    def work(folder: Path) -> None:
        pack(config.data.source, folder, 16, shard_size=2)

    return Job("pack", work, digests, _no_other_files, processes=2)


def _no_other_files(folder: Path, wanted: Contents) -> Iterator[str]:
    for name, digest in digests(folder).items():
        if not name.endswith(".partial") and wanted.get(name) != digest:
            yield f"{folder / name} is not what an uninterrupted run leaves"


def caption_job(records: Path) -> Job:
    """New captions by an endpoint of this machine; lines come in the order of replies."""
    endpoint = f"http://127.0.0.1:{_start_endpoint()}/v1"
    source = FolderSource(path=records)

    def work(folder: Path) -> None:
        with ChatClient(endpoint, "any", workers=3) as client:
            caption_images(source, folder / "captions.jsonl", client, CaptionOptions())

    def contents(folder: Path) -> Contents:
        return {"lines": str(sorted((folder / "captions.jsonl").read_bytes().splitlines()))}

    return Job("caption", work, contents, lambda folder, wanted: iter(()))


class _Endpoint(BaseHTTPRequestHandler):
    """Replies with a text that tells requests apart."""

    def do_POST(self) -> None:
        """A chat request."""
        request = self.rfile.read(int(self.headers["Content-Length"]))
        message = {"content": f"a picture like no other, {sha256(request)}"}
        body = json.dumps({"choices": [{"message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _start_endpoint() -> int:
    """Starts a chat endpoint in a process that ends with this one; returns its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True).start()
    return server.server_port


def write_host(folder: Path) -> Path:
    """A tiny random PixArt."""
    text = transformers.T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, in_channels=4, out_channels=8, sample_size=8,
        cross_attention_dim=16, caption_channels=32, use_additional_conditions=False,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side, tokenizer.model_max_length = "right", 10
    diffusers.PixArtSigmaPipeline(
        tokenizer, transformers.T5EncoderModel(text), tiny_vae(), model, diffusers.DPMSolverMultistepScheduler()
    ).save_pretrained(folder)
    return folder


def digests(folder: Path) -> Contents:
    """Of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
