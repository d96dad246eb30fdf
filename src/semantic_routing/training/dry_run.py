"""What a run would be and cost, without running it."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ..models import DiffusionTransformer2DModel
from ..models.flops import (
    PAPER_SAMPLING,
    count_as_paper,
    count_forward,
    count_language_model,
    count_parameters,
    count_sampling,
)
from .build import Sizes, build_transformer, language_model_config, resolve_sizes
from .config import Config
from .lora import lora_parameters
from .run import check_trackers

# Backward computes the gradients of a product's two factors: twice the work of forward.
BACKWARD = 2
PAPER_SIDE = 512  # pixels of the images whose cost the paper's table 4 gives


def describe(config: Config) -> str:
    """The resolved config, then parameters, FLOPs an image and memory; needs no weights and no GPU."""
    sizes = resolve_sizes(config)
    with torch.device("meta"):
        transformer = build_transformer(config, sizes)
    parameters = count_parameters(transformer)
    latent_size, tokens = config.data.image_size // sizes.downsampling, config.text.max_length
    flops = count_forward(transformer, 1, latent_size, tokens)
    lines = [config.to_yaml(), f"Language-model layers read: {sizes.layers}", "", "Parameters"]
    lines += [f"  {name:28} {count / 1e6:12.3f} M" for name, count in _with_total(parameters)]
    lines += [
        "",
        f"FLOPs of a training image with {tokens} text tokens (forward and backward; text encoder and VAE apart)",
    ]
    lines += [f"  {name:28} {count * (1 + BACKWARD) / 1e9:12.3f} G" for name, count in _with_total(flops)]
    if config.text.architecture is not None:
        lines += ["", *_paper_sampling(config, sizes, transformer)]
    rank, total = config.training.lora_rank, sum(parameters.values())
    lora = lora_parameters(transformer, rank)
    memory = training_memory(config, sizes, total + lora, lora if rank else total)
    lines += ["", f"Memory of the transformer in training, {config.training.batch_size} images at once in one process"]
    lines += [f"  {name:28} {count / 2**30:12.3f} GiB" for name, count in _with_total(memory)]
    return "\n".join(lines)


def check_inputs(config: Config) -> str:
    """Opens what training reads, as far as that costs little, and says what was found.

    Raises:
        ValueError: the data set does not exist or does not fit the config, or a tracker is not installed.
        OSError: a file cannot be read.
    """
    check_trackers(config.training.trackers)
    length = config.data.source.open(config.data.image_size, config.training.seed).length
    return f"The data source {config.data.source.source} has {'no end' if length is None else f'{length} examples'}."


def _with_total(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [*counts.items(), ("total", sum(counts.values()))]


def _paper_sampling(config: Config, sizes: Sizes, transformer: DiffusionTransformer2DModel) -> list[str]:
    """FLOPs of one guided 512 x 512 image: as the paper's table 4 counts, and all that our sampler does."""
    language_model = language_model_config(config.text)
    run = transformer.prompt_encoder_class.layers_computed(sizes.layers, language_model)
    # The paper's models run the whole language model, except FuseDiT, which has no use for layers past its last pair.
    paper_run = None if config.model.kind == "routed" else run
    sampling = PAPER_SAMPLING._replace(latent_size=PAPER_SIDE // sizes.downsampling)
    as_paper = count_as_paper(transformer, language_model, paper_run, sampling)
    ours = count_sampling(transformer, sampling)
    ours |= count_language_model(language_model, sampling.rows, sampling.text_tokens, run)
    title = (
        f"FLOPs of a {PAPER_SIDE} x {PAPER_SIDE} image: {sampling.steps} steps, guidance, {sampling.text_tokens} tokens"
    )
    lines = [title, f"  {'':36} {'table 4':>12}   {'our sampler':>12}"]
    for name in [*ours, "total"]:
        columns = [sum(counts.values()) if name == "total" else counts.get(name, 0) for counts in (as_paper, ours)]
        lines.append(f"  {name:36} " + "   ".join(f"{count / 1e12:10.3f} T" for count in columns))
    note = (
        "  table 4: linear layers and fusion only, all text work in every step; our sampler: attention too, text once"
    )
    once = "step" if "timestep" in transformer.varies_with else "prompt"
    return [*lines, f"{note} a {once}"]


def training_memory(config: Config, sizes: Sizes, parameters: int, trained: int) -> dict[str, int]:
    """Bytes that the transformer needs in training, by what they hold.

    Weights, gradients, AdamW's two moments and the average are float32; activations are measured, of one process.

    Args:
        config: the run.
        sizes: what the transformer fits to.
        parameters: of the transformer.
        trained: of them, which have gradients.
    """
    images = config.training.batch_size // config.training.gradient_accumulation
    return {
        "weights": 4 * parameters,
        "gradients": 4 * trained,
        "AdamW's moments": 8 * trained,
        "moving average": 4 * trained,
        "activations": images * _saved_for_backward(config, sizes),
    }


def _saved_for_backward(config: Config, sizes: Sizes) -> int:
    """Bytes that a forward pass keeps for the backward pass of one image, read off a pass over tensors without data."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode():
        transformer: DiffusionTransformer2DModel = build_transformer(config, sizes)
        if config.training.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        weights = {parameter.untyped_storage()._cdata for parameter in transformer.parameters()}
        side = config.data.image_size // sizes.downsampling
        latents = torch.empty(1, sizes.latent_channels, side, side)
        text = torch.empty(1, len(sizes.layers), config.text.max_length, sizes.text_channels)
        half = config.training.precision == "bfloat16"
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=half),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            # The output holds the graph, and with it every storage, until all are counted.
            output = transformer(latents, torch.empty(1), text.bfloat16() if half else text).sample
    del output
    return sum(size for storage, size in kept.items() if storage not in weights)
