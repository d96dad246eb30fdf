"""Puts a fusion into a host and takes it out again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from diffusers import DiffusionPipeline
from torch import nn

from ..fusion import FUSIONS, FusionSizes, LayerGains, check_fusion, check_scale, gains_of
from ..io.arguments import check_arguments
from ..text import resolve_layers
from .capture import Capture, EncoderSizes, capture, release
from .hooks import Argument, owners, remove_hooks
from .hosts import Host, find_host
from .routing import Routing, TextReader

SUPPORTED_VARIATIONS = frozenset({"block", "token", "timestep"})
Routable: TypeAlias = nn.Module | DiffusionPipeline


def attach(
    model: nn.Module,
    text_encoder: nn.Module,
    fusion: str = "depth-wise",
    layers: str | int | Sequence[int] = "all",
    **options: object,
) -> Routing:
    """Lets every block of a host read all layers of its text encoder, through a fusion.

    The host's output stays what it was, to the bit, until the fusion is trained. Neither code nor weights of the host
    change: hooks do the work, and what they know is no part of its state dict. The host then takes text with layers
    beside it: see `add_routing` for pipelines, `capture` for a text encoder alone.

    Args:
        model: a transformer or U-Net of `diffusers`, see `HOSTS`.
        text_encoder: the one that it was trained with.
        fusion: a name of `semantic_routing.fusion.FUSIONS`.
        layers: which layers of it, see `semantic_routing.text.resolve_layers`.
        options: of the fusion.

    Returns:
        The routing; its parameters are what is to be trained.

    Raises:
        ValueError: the model cannot be a host or is one already, or the fusion and the encoder do not go with it.
    """
    sizes = EncoderSizes.of(text_encoder)
    chosen = resolve_layers(layers, sizes.num_layers)
    check_arguments(FUSIONS.find(fusion), options, f"Fusion strategy {fusion!r}")
    read = FUSIONS.find(fusion).layers_read(len(chosen), len(find_host(model).text_blocks(model)), **options)
    return attach_fusion(model, fusion, [chosen[index] for index in read], sizes.channels, options)


def attach_fusion(
    model: nn.Module, strategy: str, layers: list[int], channels: int, options: Mapping[str, object]
) -> Routing:
    """The same for exactly these layers, each `channels` wide; see `attach`."""
    host = find_host(model)
    if any(isinstance(owner, Routing) for owner in owners(model)):
        raise ValueError(f"This {host.model} is routed already; detach it first.")
    unsupported = sorted(FUSIONS.find(strategy).varies_with - SUPPORTED_VARIATIONS)
    if unsupported:
        raise ValueError(f"Fusion strategy {strategy!r} varies with the {unsupported[0]}, which no host shows it.")
    blocks = host.text_blocks(model)
    fusion = FUSIONS.find(strategy)(FusionSizes(len(layers), len(blocks), channels), **options)
    check_fusion(fusion, strategy)
    routing = Routing(host, model, strategy, options, fusion, layers)
    model.register_forward_pre_hook(routing.before_host, with_kwargs=True)
    model.register_forward_hook(routing.after_host, always_call=True)
    if host.projection:
        host.projections(model)[-1].register_forward_hook(routing.fuse)
    for block in blocks:
        reader = TextReader(Argument.of(block, host.argument), host.text_first)
        routing.readers.append(reader)
        block.register_forward_pre_hook(reader.before, with_kwargs=True)
    return routing


def detach(model: nn.Module) -> None:
    """Undoes `attach`: the host is what it was.

    Raises:
        ValueError: it is not routed.
    """
    find_routing(model)
    remove_hooks(model, Routing, TextReader)


def add_routing(
    pipe: DiffusionPipeline, fusion: str = "depth-wise", layers: str | int | Sequence[int] = "all", **options: object
) -> DiffusionPipeline:
    """Puts a fusion into a pipeline's model, and lets its text encoder deliver all layers with the text.

    The pipeline is called as before, and its `encode_prompt` gives what its model takes now.

    Args:
        pipe: of a host, see `HOSTS`.
        fusion: a name of `semantic_routing.fusion.FUSIONS`.
        layers: which layers of the text encoder, see `semantic_routing.text.resolve_layers`.
        options: of the fusion.

    Raises:
        ValueError: as `attach`; or the pipeline has parts that would meet the wider text and do not know it.
    """
    model, encoder, host = parts(pipe)
    routing = attach(model, encoder, fusion, layers, **options)
    capture(encoder, routing.layers, host.reads)
    return pipe


def remove_routing(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """Undoes `add_routing`.

    Raises:
        ValueError: the pipeline is not routed.
    """
    model, encoder, _ = parts(pipe)
    detach(model)
    release(encoder)
    return pipe


def parts(pipe: DiffusionPipeline) -> tuple[nn.Module, nn.Module, Host]:
    """A pipeline's model, the text encoder that is read, and the row of the host.

    Raises:
        ValueError: the pipeline cannot be routed.
    """
    model = host_model(pipe)
    host = find_host(model)
    for other in ("transformer_2", "controlnet", "prior"):
        if getattr(pipe, other, None) is not None:
            raise ValueError(f"{type(pipe).__name__} with a {other} cannot be routed: it would read the same text.")
    encoder = getattr(pipe, host.encoder, None)
    if encoder is None:
        raise ValueError(f"{type(pipe).__name__} has no {host.encoder}, whose layers a {host.model} would read.")
    return model, encoder, host


def host_model(target: Routable) -> nn.Module:
    """The model that can be a host: itself, or a pipeline's transformer or U-Net.

    Raises:
        ValueError: there is none.
    """
    if isinstance(target, nn.Module):
        return target
    for name in ("transformer", "unet"):
        if isinstance(model := getattr(target, name, None), nn.Module):
            return model
    raise ValueError(f"{type(target).__name__} has neither a transformer nor a U-Net to route.")


def find_routing(target: Routable) -> Routing:
    """The routing of a model or pipeline: its parameters are what is trained.

    Raises:
        ValueError: there is none.
    """
    model = host_model(target)
    for owner in owners(model):
        if isinstance(owner, Routing):
            return owner
    raise ValueError(f"This {type(model).__name__} is not routed; add_routing or load_routing comes first.")


def set_layer_gains(target: Routable, gains: LayerGains | None) -> None:
    """Factors of layers in what the fusion adds, such as {3: 0, 5: 2}, see `fusion.LayerGains`; None is as trained.

    Each token's context stays as large as without them. The layer that the host reads by itself is not touched.

    Raises:
        ValueError: the model or pipeline is not routed, or a layer or block does not exist.
    """
    routing = find_routing(target)
    if gains is not None:
        gains_of(gains, routing.layers, len(routing.gain))
    routing.layer_gains = gains


def set_fusion_scale(target: Routable, scale: float) -> None:
    """How far the fusion's weights lie from the plain mean of layers: 1 is as trained, see `fusion.check_scale`.

    Raises:
        ValueError: the model or pipeline is not routed, or its fusion is no convex mixture.
    """
    routing = find_routing(target)
    check_scale(scale, routing.fusion)
    routing.fusion_scale = float(scale)


@contextmanager
def fewer_layers(pipe: DiffusionPipeline, kept: Sequence[int]) -> Iterator[None]:
    """Lets the fusion of a pipeline read only the layers at positions `kept`, for a while.

    Raises:
        ValueError: the pipeline is not routed, or its fusion cannot drop layers.
    """
    routing, (_, encoder, _) = find_routing(pipe), parts(pipe)
    hooks = next(owner for owner in owners(encoder) if isinstance(owner, Capture))
    fusion, layers = routing.fusion, routing.layers
    routing.fusion = fusion.keep_layers(kept).to(routing.gain.device)
    routing.layers = [layers[position] for position in kept]
    hooks.layers = tuple(routing.layers)
    try:
        yield
    finally:
        routing.fusion, routing.layers, hooks.layers = fusion, layers, tuple(layers)


def set_routing_scale(target: Routable, scale: float) -> None:
    """How strongly layers are added, as with LoRA: 1 is as trained, 0 is the host alone.

    Raises:
        ValueError: the model or pipeline is not routed.
    """
    find_routing(target).scale = float(scale)
