"""A fusion inside a host: what it adds to the text that each block reads."""

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from diffusers.utils import BaseOutput
from jaxtyping import Bool, Float
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..fusion import LayerGains, Moment, TextFusion, fuse_with_gains, gains_of
from .capture import split
from .hooks import Argument, Call
from .hosts import TIMES, Host, config_of


class TextReader:
    """The hook on a module that reads text: adds what the fusion has for it.

    Args:
        argument: the module's argument that holds text.
        text_first: whether text positions are its first, and not its last.
    """

    def __init__(self, argument: Argument, text_first: bool) -> None:
        self.argument = argument
        self.text_first = text_first
        self.residual: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        """What a copy gets: everything but the tensor of the step that runs."""
        return {**self.__dict__, "residual": None}

    def before(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Call | None:
        """Before the module runs."""
        if self.residual is None:
            return None
        tokens = self.argument.get(args, kwargs)
        if isinstance(tokens, tuple):  # some hosts pass text as the first of a pair
            return self.argument.put(args, kwargs, (self.add(tokens[0], self.residual), *tokens[1:]))
        return self.argument.put(args, kwargs, self.add(tokens, self.residual))

    def add(self, tokens: Tensor, residual: Tensor) -> Tensor:
        """Tokens with the residual at text positions."""
        residual = residual.to(tokens.device, tokens.dtype)[:, : tokens.shape[1]]
        start = 0 if self.text_first else tokens.shape[1] - residual.shape[1]
        end = start + residual.shape[1]
        if residual.shape[1] == tokens.shape[1]:
            return tokens + residual
        return torch.cat([tokens[:, :start], tokens[:, start:end] + residual, tokens[:, end:]], dim=1)


HostOutput: TypeAlias = Tensor | tuple[Any, ...] | BaseOutput
"""What a model of `diffusers` returns: where it is an object, its prediction is `sample`."""


class Step(NamedTuple):
    """One call of the host: its projections, what it was called with, taken apart, which tokens are real, and when."""

    projections: list[nn.Module]
    wide: Float[Tensor, "batch text_tokens all_channels"]
    text: Float[Tensor, "batch text_tokens channels"]
    layers: Float[Tensor, "batch layers text_tokens text_channels"]
    mask: Bool[Tensor, "batch text_tokens"]
    timestep: Float[Tensor, " #batch"]

    def project(self, text: Tensor) -> Tensor:
        """What the host makes of text before the blocks."""
        for module in self.projections:
            text = module(text)
        return text


class _Recall(torch.autograd.Function):
    """Passes a host's output on; before its backward pass, blocks are shown again what they saw in its forward pass.

    Gradient checkpointing runs the blocks again then, and the host may have been called for other text meanwhile.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, routing: "Routing", residuals: list[Tensor]) -> Tensor:
        ctx.routing, ctx.residuals = routing, residuals
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.routing.show(ctx.residuals)
        return gradients[0], None, None


def _recall(output: Tensor, routing: "Routing", residuals: list[Tensor]) -> Tensor:
    return _Recall.apply(output, routing, residuals)  # type: ignore[no-untyped-call]


class Routing(nn.Module):
    """A fusion, a signed gain a block, and the hooks that bring both into a host.

    The text c that block d reads becomes c + P(e + s · g_d · |e| · F_d) − P(e). Here e is the host's own embedding of
    the prompt, |e| the root mean square over channels of each token of it, F_d the fusion's context, P the host's
    projection, g_d the gain and s the scale. Gains start at zero, and then the difference is zero to the bit.

    Args:
        host: the row of the host.
        model: the host, for its configuration.
        strategy: the fusion's name.
        options: the fusion's options.
        fusion: the fusion.
        layers: the text encoder's layers that it reads, 0 being the embeddings.

    Raises:
        ValueError: the text encoder and the host do not go together.
    """

    def __init__(
        self,
        host: Host,
        model: nn.Module,
        strategy: str,
        options: Mapping[str, object],
        fusion: TextFusion,
        layers: list[int],
    ) -> None:
        super().__init__()
        self.host, self.strategy, self.options, self.layers = host, strategy, options, layers
        self.width, self.channels = host.text_channels(config_of(model)), fusion.sizes.text_channels or 0
        if self.channels > self.width or (self.channels < self.width and not host.after_others):
            raise ValueError(
                f"{host.model} reads text of {self.width} channels, but the text encoder has {self.channels}."
            )
        self.fusion = fusion
        self.narrow: nn.Linear | None = None  # for a fusion whose context is wider than a layer
        if fusion.out_channels != self.channels:
            self.narrow = nn.Linear(fusion.out_channels, self.channels, bias=False)
        self.gain = nn.Parameter(torch.zeros(fusion.sizes.num_blocks))
        self.scale = 1.0
        self.layer_gains: LayerGains | None = None
        self.fusion_scale = 1.0
        self.entry, self.time = Argument.of(model, host.entry), Argument.of(model, "timestep")
        self.mask = Argument.of(model, host.mask) if host.mask else None
        self.readers: list[TextReader] = []
        self._step: Step | None = None
        # By the tensor of the text, as long as it lives.
        self._fused: MutableMapping[Tensor, tuple[tuple[object, ...], list[Tensor]]] = WeakTensorKeyDictionary()

    def __getstate__(self) -> dict[str, object]:
        """What a copy gets: everything but the tensors of the step that runs and those kept for the next."""
        return {**self.__dict__, "_step": None, "_fused": WeakTensorKeyDictionary()}

    def before_host(self, model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Call | None:
        """Before the host runs: takes the layers off its text, to be fused once the host projects its text."""
        self._step = None
        self.show(None)
        wide = self.entry.get(args, kwargs)
        if not self.scale and wide.shape[-1] == self.width:
            return None
        wanted = self.width + len(self.layers) * self.channels
        if wide.shape[-1] != wanted:
            raise ValueError(
                f"The routed {self.host.model} takes {self.host.entry} of {wanted} channels, which are its text and "
                f"{len(self.layers)} layers as encode_prompt of a routed pipeline gives them, not of {wide.shape[-1]}."
            )
        text, _ = split(wide, self.width, len(self.layers))
        if self.scale:
            self.to(text.device)
            step = self.read(model, args, kwargs)
            kept = self._fused.get(wide)
            if kept is not None and kept[0] == self._key(step):
                self.show(kept[1])
            else:
                self._step = step
                if not step.projections:
                    self.fuse()
        return self.entry.put(args, kwargs, text)

    def read(self, model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Step:
        """What the host is called with."""
        wide = self.entry.get(args, kwargs)
        text, layers = split(wide, self.width, len(self.layers))
        mask = layers[:, 0].any(dim=-1)  # hosts without a mask set padding to zero
        given = None if self.mask is None else self.mask.get(args, kwargs)
        if given is not None and given.ndim == 2:
            mask = mask & (given[:, : mask.shape[1]] != 0)
        time = torch.as_tensor(self.time.get(args, kwargs), device=text.device).float()
        # Some video models give each frame or patch its time, and 0 to those that are known already.
        time = time.flatten(1).amax(1) if time.ndim > 1 else time.reshape(-1)
        timestep = TIMES[self.host.time](time, config_of(model))
        return Step(self.host.projections(model), wide, text, layers, mask, timestep)

    def fuse(self, *_: object) -> None:
        """Shows the blocks what the fusion makes of the step's text: as a hook, once the host projects its own.

        Then, and not before, offloading has brought the projection's weights.
        """
        step, self._step = self._step, None  # projecting calls this hook again
        if step is None:
            return
        residuals = self.residuals(step)
        if not torch.is_grad_enabled() and "timestep" not in self.fusion.varies_with:
            self._fused[step.wide] = self._key(step), residuals
        self.show(residuals)

    def _key(self, step: Step) -> tuple[object, ...]:
        """What was made of a text before serves again while this is equal to what it was."""
        modules = [module for owner in (self, *step.projections) for module in owner.modules()]
        if any(isinstance(module, BaseTunerLayer) for module in modules):
            return (object(),)  # a LoRA's strength can change unseen
        return (
            self.scale,
            repr(self.layer_gains),
            self.fusion_scale,
            *((id(p), p._version) for module in modules for p in module.parameters(recurse=False)),
        )

    def residuals(self, step: Step) -> list[Float[Tensor, "batch text_tokens block_channels"]]:
        """What is added to the text of each block."""
        prepared = self.fusion.prepare(step.layers, step.mask)._replace(scale=self.fusion_scale)
        if self.layer_gains is not None:
            gains = gains_of(self.layer_gains, self.layers, len(self.gain))
            prepared = prepared._replace(gains=gains.to(step.wide.device))
        contexts = fuse_with_gains(self.fusion, prepared, Moment(step.timestep))
        if self.narrow is not None:
            contexts = F.linear(contexts, self.narrow.weight.to(contexts.dtype))
        length = contexts.shape[2]
        own = step.text[:, :length, -self.channels :].float()
        size = self.scale * own.square().mean(-1, keepdim=True).sqrt()
        if prepared.mask is not None:
            size = size * prepared.mask[..., None]
        origin = step.project(step.text)
        padding = (self.width - self.channels, 0, 0, step.text.shape[1] - length)
        found = []
        for gain, context in zip(self.gain, contexts.expand(len(self.gain), -1, -1, -1), strict=True):
            shift = F.pad((gain * size * context).to(step.text.dtype), padding)
            # The host's call has one shape in both terms, so that equal texts give equal bits.
            found.append(step.project(step.text + shift) - origin if step.projections else shift)
        return found

    def show(self, residuals: list[Tensor] | None) -> None:
        """Gives each block what it adds to its text."""
        for number, reader in enumerate(self.readers):
            reader.residual = None if residuals is None else residuals[number]

    def after_host(self, model: nn.Module, args: tuple[object, ...], output: HostOutput | None) -> HostOutput | None:
        """After the host ran: nothing of the step stays, unless its backward pass needs it.

        The output is None where the host raised.
        """
        residuals = [reader.residual for reader in self.readers if reader.residual is not None]
        self.show(None)
        if output is None or not residuals or not torch.is_grad_enabled() or not _checkpoints(model):
            return output
        if isinstance(output, Tensor):
            return _recall(output, self, residuals)
        if isinstance(output, tuple):
            return (_recall(output[0], self, residuals), *output[1:])
        output.sample = _recall(output.sample, self, residuals)
        return output

    def layer_weights(self, timestep: Float[Tensor, " #batch"]) -> Tensor | None:
        """The fusion weights, for diagnosis; see `TextFusion.layer_weights`."""
        return self.fusion.layer_weights(None, Moment(timestep))


def _checkpoints(model: nn.Module) -> bool:
    """Whether blocks run again in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
