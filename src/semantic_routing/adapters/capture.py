"""Hidden states of all layers travel with the text that a host's own pipeline encodes.

A host's pipeline tokenizes, pads, cuts, repeats and joins its text in its own way. Nothing of that is repeated here:
hooks on the text encoder put the other layers beside the hidden state that the pipeline takes, as more channels. What
the pipeline does with tokens and rows it then does with all layers, and `split` takes them apart again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .hooks import Call, remove_hooks


class EncoderSizes(NamedTuple):
    """Layers of a text encoder, embeddings not counted, and the width of its hidden states."""

    num_layers: int
    channels: int

    @classmethod
    def of(cls, encoder: nn.Module) -> "EncoderSizes":
        """Of a `transformers` model.

        Raises:
            ValueError: its configuration does not say.
        """
        config: Any = getattr(encoder, "config", None)
        if (
            config is not None
            and not getattr(config, "is_encoder_decoder", False)
            and hasattr(config, "get_text_config")
        ):
            config = config.get_text_config()
        layers, channels = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
        if not isinstance(layers, int) or not isinstance(channels, int):
            raise ValueError(
                f"{type(encoder).__name__} gives no hidden states to read: "
                "its config lacks num_hidden_layers or hidden_size."
            )
        return cls(layers, channels)


class Capture:
    """The hooks on a text encoder.

    Args:
        layers: which hidden states to deliver, 0 being the embeddings.
        reads: the hidden state that the pipeline takes: None is `last_hidden_state`.
    """

    def __init__(self, layers: Sequence[int], reads: int | None) -> None:
        self.layers = tuple(layers)
        self.reads = reads

    def ask(self, encoder: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
        """Before the encoder runs: all hidden states are wanted."""
        return args, {**kwargs, "output_hidden_states": True}

    def widen(self, encoder: nn.Module, args: tuple[object, ...], output: Any) -> Any:
        """After it ran: the layers stand beside the hidden state that the pipeline takes."""
        states = list(output.hidden_states)
        own = output.last_hidden_state if self.reads is None else states[self.reads]
        wide = torch.cat([own, *(states[layer] for layer in self.layers)], dim=-1)
        if self.reads is None:
            output.last_hidden_state = wide
        else:
            states[self.reads] = wide
            output.hidden_states = tuple(states)
        return output


def capture(encoder: nn.Module, layers: Sequence[int], reads: int | None = None) -> None:
    """Lets a text encoder deliver the hidden states of `layers` beside the one that a pipeline takes.

    Args:
        encoder: a `transformers` model.
        layers: which, 0 being the embeddings.
        reads: the hidden state that the pipeline takes, as an index; None is `last_hidden_state`.

    Raises:
        ValueError: it does so already.
    """
    if any(isinstance(getattr(hook, "__self__", None), Capture) for hook in encoder._forward_hooks.values()):
        raise ValueError(f"This {type(encoder).__name__} delivers its layers already; release it first.")
    hooks = Capture(layers, reads)
    encoder.register_forward_pre_hook(hooks.ask, with_kwargs=True)
    encoder.register_forward_hook(hooks.widen)


def release(encoder: nn.Module) -> None:
    """Undoes `capture`."""
    remove_hooks(encoder, Capture)


def widen(
    text: Float[Tensor, "batch text_tokens channels"],
    hidden_states: Float[Tensor, "batch layers text_tokens text_channels"],
) -> Float[Tensor, "batch text_tokens all_channels"]:
    """The text of a host with hidden states beside it, for who has both already."""
    return torch.cat([text, hidden_states.transpose(1, 2).flatten(2)], dim=-1)


def split(
    wide: Float[Tensor, "batch text_tokens all_channels"], width: int, num_layers: int
) -> tuple[Float[Tensor, "batch text_tokens channels"], Float[Tensor, "batch layers text_tokens text_channels"]]:
    """The text of a host, `width` channels as it would have come without the layers, and the layers."""
    channels = (wide.shape[-1] - width) // num_layers  # said, since there may be no token
    layers = wide[..., width:].reshape(*wide.shape[:2], num_layers, channels)
    return wide[..., :width].contiguous(), layers.transpose(1, 2)
