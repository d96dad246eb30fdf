"""What a model costs: parameters and floating-point operations by component, counted on the model itself.

Nothing is computed: the model is rebuilt with tensors that have a shape and no data, and `torch`'s counter watches its
matrix products. A multiply-add is two operations; norms, activations, softmax and rotations are not counted. Attention
is counted as full rectangles, masks and causality notwithstanding.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import AutoModel, PretrainedConfig

from ..fusion import TextFusion
from .backbone import DiffusionTransformer2DModel

ATTENTION = "attention products"
LANGUAGE_MODEL = "language model"
LANGUAGE_MODEL_ATTENTION = "language model's attention products"

# A parameter or a layer belongs to the first component whose pattern its name contains.
_COMPONENTS = {
    "fusion": r"^fusion\.",
    "context embedder": r"^context_embedder\.",
    "text keys and values": r"cross_attention\.(to_k|to_v|norm_k)\.",
    "cross-attention": r"cross_attention\.",
    "self-attention": r"(self|joint)_attention\.",
    "MLP": r"\.mlp\.",
    "timestep conditioning": r"time_embedder\.|modulation",
    "patches in and out": r"^(patch_embed|proj_out|norm_out)\.",
    "norms": r"norm_",
}


class Sampling(NamedTuple):
    """What is sampled, and how."""

    latent_size: int = 64  # latent pixels a side: 64 for 512 x 512 images and an autoencoder that shrinks by 8
    text_tokens: int = 512  # positions that are computed; our sampler computes real tokens only
    steps: int = 50
    rows: int = 2  # rows of the batch: an image and, with guidance, its unconditional twin


PAPER_SAMPLING = Sampling()


def count_parameters(transformer: DiffusionTransformer2DModel) -> dict[str, int]:
    """Parameters by component."""
    counts: Counter[str] = Counter()
    for name, parameter in transformer.named_parameters():
        counts[_component(name)] += parameter.numel()
    return _in_order(counts)


def count_forward(
    transformer: DiffusionTransformer2DModel, rows: int, latent_size: int, text_tokens: int
) -> dict[str, int]:
    """FLOPs of one forward pass by component, all text work included: what a training step does, without backward.

    Args:
        transformer: a diffusion transformer, whatever the device (`meta` too).
        rows: of the batch.
        latent_size: latent pixels a side.
        text_tokens: of each row.
    """

    def forward(model: DiffusionTransformer2DModel, text: Tensor, latents: Tensor, timestep: Tensor) -> None:
        model(latents, timestep, text)

    return _in_order(_count_transformer(transformer, forward, rows, latent_size, text_tokens))


def count_prompt_and_step(
    transformer: DiffusionTransformer2DModel, sampling: Sampling
) -> tuple[dict[str, int], dict[str, int]]:
    """FLOPs of our sampler by component: what it does once for its prompts, and what it does in each step."""
    sizes = (sampling.rows, sampling.latent_size, sampling.text_tokens)

    def prepare(model: DiffusionTransformer2DModel, text: Tensor, latents: Tensor, timestep: Tensor) -> None:
        model.text_context(model.prepare_text(text, reused=True), timestep[:1], cache=True)

    def prepare_and_step(model: DiffusionTransformer2DModel, text: Tensor, latents: Tensor, timestep: Tensor) -> None:
        context = model.text_context(model.prepare_text(text, reused=True), timestep[:1], cache=True)
        model(latents, timestep, text_context=context)

    once = _count_transformer(transformer, prepare, *sizes)
    step = _count_transformer(transformer, prepare_and_step, *sizes)
    if "timestep" in transformer.varies_with:
        return {}, _in_order(step)
    step.subtract(once)
    return _in_order(once), _in_order(step)


def count_sampling(transformer: DiffusionTransformer2DModel, sampling: Sampling) -> dict[str, int]:
    """FLOPs of the transformer by component in a whole run of our sampler, which repeats only what depends on time."""
    once, step = count_prompt_and_step(transformer, sampling)
    return _in_order(Counter(once) + Counter({name: sampling.steps * flops for name, flops in step.items()}))


def count_language_model(
    config: PretrainedConfig, rows: int, text_tokens: int, layers: int | None = None
) -> dict[str, int]:
    """FLOPs of one pass of the language model without heads, its linear layers and its attention products apart.

    Args:
        config: its `transformers` configuration.
        rows: prompts.
        text_tokens: of each prompt.
        layers: how many are computed, of a decoder; None computes all.
    """
    with FakeTensorMode():
        model: Any = AutoModel.from_config(config.get_text_config())  # type: ignore[no-untyped-call]
        model.requires_grad_(False)
        if layers is not None:
            model.layers = model.layers[:layers]
        ids = torch.zeros(rows, text_tokens, dtype=torch.long)
        linear, rest = _linear_and_rest(model, lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    return {LANGUAGE_MODEL: sum(linear.values()), LANGUAGE_MODEL_ATTENTION: rest}


def count_as_paper(
    transformer: DiffusionTransformer2DModel,
    language_model: PretrainedConfig,
    layers: int | None = None,
    sampling: Sampling = PAPER_SAMPLING,
) -> dict[str, int]:
    """FLOPs in the convention that gives the numbers of the paper's table 4.

    Linear layers and fusion only, attention products not counted; all text work in every step; every text position
    computed, padding too; and one pass of the language model's linear layers over all rows.

    Args:
        transformer: a diffusion transformer.
        language_model: the `transformers` configuration of its text encoder.
        layers: language-model layers that are computed; None is all, FuseDiT needs those up to the deepest paired one.
        sampling: the paper's is the default.
    """
    step = count_forward(transformer, sampling.rows, sampling.latent_size, sampling.text_tokens)
    counts = {name: sampling.steps * flops for name, flops in step.items() if name != ATTENTION}
    text = count_language_model(language_model, sampling.rows, sampling.text_tokens, layers)
    return {**counts, LANGUAGE_MODEL: text[LANGUAGE_MODEL]}


def _count_transformer(
    transformer: DiffusionTransformer2DModel, run: Callable[..., None], rows: int, latent_size: int, text_tokens: int
) -> Counter[str]:
    """Runs a copy without data, of the same configuration, and sorts what was counted."""
    config = transformer.config
    with FakeTensorMode():
        model = type(transformer)(**{key: value for key, value in config.items() if not key.startswith("_")})
        model.requires_grad_(False)
        text = torch.empty(rows, config.num_text_layers, text_tokens, config.text_channels)
        latents = torch.empty(rows, config.in_channels, latent_size, latent_size)
        linear, rest = _linear_and_rest(model, lambda: run(model, text, latents, torch.empty(rows)))
    counts: Counter[str] = Counter()
    for name, flops in linear.items():
        counts[_component(f"{name}.")] += flops
    counts[ATTENTION] = rest
    return counts


class _Root(nn.Module):
    """Under which the counter knows all modules by their whole names, also those that methods call one by one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], None]) -> None:
        run()


def _linear_and_rest(model: nn.Module, run: Callable[[], object]) -> tuple[dict[str, int], int]:
    """FLOPs of `run` in linear layers, convolutions and fusions, by module name, and of everything else."""
    # The CPU's kernel of scaled dot products is missing from the counter's own list.
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention_flops(query: object, key: object, value: object, *args: object, **kwargs: object) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    counter = FlopCounterMode(display=False, custom_mapping={kernel: attention_flops})
    with counter, torch.no_grad():
        _Root(model)(run)
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    linear = {
        name: counts.get(f"{_Root.__name__}.model.{name}", 0)
        for name, module in model.named_modules()
        # A fusion counts as one, whatever is in it.
        if isinstance(module, nn.Linear | nn.Conv2d | TextFusion) and not name.startswith("fusion.")
    }
    return linear, counter.get_total_flops() - sum(linear.values())


def _component(name: str) -> str:
    for component, pattern in _COMPONENTS.items():
        if re.search(pattern, name):
            return component
    raise ValueError(f"{name!r} belongs to no component that is counted; add it to _COMPONENTS.")


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in (*_COMPONENTS, ATTENTION) if counts[name]}
