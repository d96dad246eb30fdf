"""Outputs of a host's text encoder, kept in memory: training meets captions again."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput


class Remembered:
    """The forward pass of a text encoder, which computes each text once.

    A text is computed alone, so that its output is the same to the bit whatever batch it comes in.

    Args:
        forward: of the text encoder.
        most: texts that are kept; the one used longest ago goes first.
    """

    def __init__(self, forward: Callable[..., ModelOutput], most: int) -> None:
        self.forward = forward
        self.most = most
        self.kept: OrderedDict[tuple[object, ...], ModelOutput] = OrderedDict()

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: object) -> ModelOutput:
        """The output for a batch of token rows."""
        masks = [None] * len(input_ids) if attention_mask is None else list(attention_mask)
        outputs = [self._one(ids, mask, options) for ids, mask in zip(input_ids, masks, strict=True)]
        first = outputs[0]
        return type(first)(**{name: _join([output[name] for output in outputs]) for name in first})

    def _one(self, ids: Tensor, mask: Tensor | None, options: dict[str, object]) -> ModelOutput:
        key = (tuple(ids.tolist()), None if mask is None else tuple(mask.tolist()), repr(sorted(options.items())))
        if key not in self.kept:
            masks = {} if mask is None else {"attention_mask": mask[None]}
            output = self.forward(input_ids=ids[None], **masks, **options)
            self.kept[key] = type(output)(**{name: value for name, value in output.items() if _joins(value)})
            if len(self.kept) > self.most:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]


def remember(encoder: nn.Module, most: int) -> None:
    """Lets a frozen text encoder keep its outputs for `most` texts; what hooks do comes after that."""
    encoder.forward = Remembered(encoder.forward, most)


def _joins(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple) and all(isinstance(part, Tensor) for part in value))


def _join(values: list[Any]) -> Tensor | tuple[Tensor, ...]:
    """Tensors of single rows as one batch; tuples of them part by part."""
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    return tuple(torch.cat(parts) for parts in zip(*values, strict=True))
