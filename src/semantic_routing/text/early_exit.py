"""Runs a language model no further than the deepest layer that is read."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor, nn


class _Stop(Exception):  # noqa: N818 (nothing went wrong)
    """Leaves the language model's forward pass."""


def layer_stack(model: nn.Module, num_hidden_layers: int) -> nn.ModuleList | None:
    """The language model's layers: its one list of that many modules; None where there is no such, or several."""
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_hidden_layers and num_hidden_layers > 0
    ]
    return stacks[0] if len(stacks) == 1 else None


def read_until(run: Callable[[], Any], stack: nn.ModuleList, layers: Sequence[int]) -> list[Tensor]:
    """Hidden states of some layers, none of them the last, numbered as by `resolve_layers`.

    The forward pass `run` is left once the deepest of them is there. No final norm is involved: models put one on the
    last layer's output alone.
    """
    found: dict[int, Tensor] = {}
    deepest = max(layers)

    def keep(layer: int, states: Tensor) -> None:
        if layer in layers:
            found[layer] = states
        if layer == deepest:
            raise _Stop

    def before(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        keep(0, inputs[0] if inputs else options["hidden_states"])

    def after(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: keep(layer, output if isinstance(output, Tensor) else output[0])

    hooks = [stack[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [stack[layer - 1].register_forward_hook(after(layer)) for layer in layers if layer > 0]
    try:
        run()
    except _Stop:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [found[layer] for layer in layers]


def shorten(config: Any, count: int) -> Any:
    """A language model's configuration with `count` layers."""
    short = copy.deepcopy(config)
    short.num_hidden_layers = count
    if getattr(short, "layer_types", None):
        short.layer_types = short.layer_types[:count]
    return short


def first_layers(model: Any, count: int) -> Any:
    """A language model with the first `count` layers of `model`, whose weights it shares; saved, it is that small.

    Where the model has a final norm, so has the copy: its last layer's output is not that of the same layer in `model`.
    """
    with init_empty_weights():
        short = type(model)(shorten(model.config, count))
    weights = model.state_dict()
    short.load_state_dict({name: weights[name] for name in short.state_dict()}, assign=True)
    short.tie_weights()
    return short.to(model.device).eval().requires_grad_(False)
