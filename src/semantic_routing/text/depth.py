"""How deep a language model is: its list of layers, and a copy that ends at the deepest layer which is read."""

import copy
from collections.abc import Callable

from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

# Configuration keys that hold a value for each layer.
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")

# In models of these types what a layer computes depends on how many layers there are.
WHOLE = ("gemma3n_text", "gemma4_text", "gemma4_unified_text", "minicpm3", "minimax")


LayerOutput = Tensor | tuple[Tensor, *tuple[object, ...]]
"""Hidden states, perhaps the first of several things."""


def layer_stack(model: nn.Module, num_hidden_layers: int) -> nn.ModuleList | None:
    """The language model's layers: its one list of that many modules; None where there is no such, or several."""
    stacks = [
        module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == num_hidden_layers
    ]
    # A layer may itself hold a list of as many modules.
    inner = {id(module) for stack in stacks for layer in stack for module in layer.modules()}
    outer = [stack for stack in stacks if id(stack) not in inner]
    return outer[0] if len(outer) == 1 else None


def without_heads(model: PreTrainedModel) -> PreTrainedModel:
    """The stack of layers that reads text within a model that also has heads or a vision tower.

    Args:
        model: a `transformers` model, such as `Qwen3ForCausalLM` or `Qwen3VLForConditionalGeneration`.

    Raises:
        ValueError: the model is an encoder with a decoder, which has two such stacks.
    """
    if not model.config.is_encoder_decoder:
        return model.get_decoder()  # type: ignore[no-untyped-call]
    if any(name.startswith("decoder.") for name, _ in model.named_modules()):
        raise ValueError(f"{type(model).__name__} has a decoder, which reads no prompt: pass its encoder alone.")
    return model


def shorten(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """A language model's configuration with its first `count` layers."""
    short = copy.deepcopy(config)
    for name in PER_LAYER:
        if getattr(short, name, None):
            setattr(short, name, getattr(short, name)[:count])
    short.num_hidden_layers = count
    return short


def can_shorten(model: PreTrainedModel) -> bool:
    """Whether the first layers of a model, perhaps without weights, are those of a model that has only them."""
    config = model.config
    quantized = getattr(config, "quantization_config", None) is not None
    return config.model_type not in WHOLE and not quantized and layer_stack(model, config.num_hidden_layers) is not None


def first_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """A language model with the first `count` layers of `model`, whose weights it shares; saved, it is that small.

    `model` stays as it is, and is returned where it has no more layers, or cannot be shortened. The copy keeps the
    final norm, although its last layer's output is not what that norm was trained on.
    """
    if count >= model.config.num_hidden_layers or not can_shorten(model):
        return model
    with init_empty_weights():
        short = type(model)(shorten(model.config, count))
    weights = model.state_dict()
    short.load_state_dict({name: weights[name] for name in short.state_dict()}, assign=True)
    short.tie_weights()
    module: nn.Module = short  # the signatures of transformers' own `to` and `eval` cannot be read
    module.to(model.device).eval().requires_grad_(False)
    return short


def run_layers(model: PreTrainedModel, inputs: dict[str, Tensor], layers: list[int], normalized: bool) -> list[Tensor]:
    """Hidden states of some layers, numbered as by `resolve_layers`.

    Whether the last of `output.hidden_states` comes before or after the final norm depends on the model's class and the
    version of `transformers`; it is not looked at.

    Args:
        model: a language model without heads.
        inputs: of its forward pass.
        layers: which to give.
        normalized: give the last layer after the model's final norm, where it has one.
    """
    last = model.config.num_hidden_layers
    found: dict[int, Tensor] = {}
    hooks = []
    if last in layers and not normalized:
        stack = layer_stack(model, last)
        assert stack is not None, "TextEncoder refuses such a model"
        hooks.append(stack[-1].register_forward_hook(_keep(found, last)))
    try:
        output = model(**inputs, output_hidden_states=layers)
    finally:
        for hook in hooks:
            hook.remove()
    if normalized:
        found[last] = output.last_hidden_state
    return [found[layer] if layer in found else output.hidden_states[layer] for layer in layers]


def _keep(found: dict[int, Tensor], layer: int) -> Callable[[nn.Module, object, LayerOutput], None]:
    def hook(module: nn.Module, inputs: object, output: LayerOutput) -> None:
        found[layer] = output if isinstance(output, Tensor) else output[0]

    return hook
