"""Prompts in, hidden states of chosen language-model layers out."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .early_exit import layer_stack, read_until
from .feature_cache import FeatureCache

logger = logging.getLogger(__name__)

MIN_FILL = 0.75


class TextFeatures(NamedTuple):
    """Hidden states of a batch of prompts, padded on the right to the longest, and which tokens are real."""

    hidden_states: Float[Tensor, "batch layers text_tokens text_channels"]
    mask: Bool[Tensor, "batch text_tokens"]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "TextFeatures":
        """Moves both, and casts the hidden states."""
        return TextFeatures(self.hidden_states.to(device, dtype), self.mask.to(device))


def resolve_layers(layers: str | int | Sequence[int], num_hidden_layers: int) -> list[int]:
    """Turns a choice of layers into indices of the model's hidden states, shallow first.

    Index 0 is the token embeddings and index k the output of layer k; where the model has a final norm, the last one is
    taken after it. Negative indices count from the end.

    Args:
        layers: `"all"` (embeddings left out), a number n for the last n, or a list of indices.
        num_hidden_layers: layers of the language model.

    Raises:
        ValueError: a layer is out of range.
    """
    if layers == "all":
        return list(range(1, num_hidden_layers + 1))
    if isinstance(layers, int):
        if not 1 <= layers <= num_hidden_layers + 1:
            raise ValueError(f"Cannot take the last {layers} layers of {num_hidden_layers}: expected 1 or more.")
        return list(range(num_hidden_layers + 1 - layers, num_hidden_layers + 1))
    if isinstance(layers, str) or not layers:
        raise ValueError(f"Layers must be 'all', a number or a non-empty list of indices, not {layers!r}.")
    for layer in layers:
        if not -num_hidden_layers - 1 <= layer <= num_hidden_layers:
            raise ValueError(f"Layer {layer} is out of range: the language model has layers 0 to {num_hidden_layers}.")
    return sorted({layer % (num_hidden_layers + 1) for layer in layers})


def buckets(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """Groups rows of similar length, so that little is computed for padding: (rows, longest) of each group.

    Longest first; a group ends at the first row that would be padded by more than a quarter.
    """
    groups: list[tuple[list[int], int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or lengths[row] < MIN_FILL * groups[-1][1]:
            groups.append(([], lengths[row]))
        groups[-1][0].append(row)
    return groups


class TextEncoder:
    """A language model and how prompts are put to it.

    Args:
        model: a `transformers` model that returns `hidden_states`.
        tokenizer: its tokenizer.
        layers: see `resolve_layers`.
        instruction: text put before every prompt, joined without a separator, as in the reference.
        chat_template: wrap instruction and prompt as a user's message in the tokenizer's own template.
        max_length: tokens, instruction included, after which a prompt is cut.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layers: str | int | Sequence[int] = "all",
        instruction: str = "",
        chat_template: bool = False,
        max_length: int = 512,
    ) -> None:
        if chat_template and not getattr(tokenizer, "chat_template", None):
            raise ValueError(f"chat_template is set, but {type(tokenizer).__name__} comes without a template.")
        self.model = model
        self.tokenizer = tokenizer
        self.layers = self.resolve(layers, model.config)
        self.instruction = instruction
        self.chat_template = chat_template
        limit = getattr(model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, limit)
        self.cache: FeatureCache | None = None

    @classmethod
    def resolve(cls, layers: str | int | Sequence[int], config: Any) -> list[int]:
        """The layers that a choice means for a language model of this `transformers` configuration."""
        return resolve_layers(layers, config.num_hidden_layers)

    @classmethod
    def channels(cls, config: Any) -> int:
        """Width of what is read of a language model of this `transformers` configuration."""
        return int(config.hidden_size)

    @classmethod
    def layers_computed(cls, layers: Sequence[int], config: Any) -> int:
        """How many of its layers run: no further than the deepest chosen, where its layers are one list."""
        return max(layers)

    @property
    def num_channels(self) -> int:
        """Width of the hidden states."""
        return self.channels(self.model.config)

    def use_cache(self, folder: Path, gib: float) -> None:
        """From now on reads features from a folder, and keeps there what it lacks, up to a size; see `FeatureCache`."""
        self.cache = FeatureCache(folder, int(gib * 2**30), self.model, f"{type(self).__name__} {self.layers}")

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> TextFeatures:
        """Encodes prompts, each distinct one once, on the model's device and in its dtype."""
        if not prompts:
            raise ValueError("There is no prompt to encode.")
        distinct = list(dict.fromkeys(prompts))
        input_ids, mask = (tensor.to(self.model.device) for tensor in self.tokenize(distinct))
        shape = (len(distinct), len(self.layers), input_ids.shape[1], self.num_channels)
        hidden_states = torch.zeros(shape, device=mask.device, dtype=self.model.dtype)
        lengths = mask.sum(1).tolist()
        if self.cache is None:
            for rows, length in buckets(lengths):
                hidden_states[rows, :, :length] = self.read(input_ids[rows, :length], mask[rows, :length])
        else:
            # One by one: the last bits depend on a batch's shape, and what is kept must depend on its prompt alone.
            for row, length in enumerate(lengths):
                ids, real = input_ids[row : row + 1, :length], mask[row : row + 1, :length]
                hidden_states[row, :, :length] = self.cache.read(ids, real, self.read)[0]
        features = TextFeatures(hidden_states, mask)
        if len(distinct) == len(prompts):
            return features
        position = {prompt: row for row, prompt in enumerate(distinct)}
        order = torch.tensor([position[prompt] for prompt in prompts], device=mask.device)
        return TextFeatures(*(tensor[order] for tensor in features))

    def read(
        self, input_ids: Int[Tensor, "batch text_tokens"], mask: Bool[Tensor, "batch text_tokens"]
    ) -> Float[Tensor, "batch layers text_tokens text_channels"]:
        """Runs the language model, no further than the deepest layer chosen."""
        # The mask is passed on: a decoder would not need it with padding on the right, an encoder does.
        inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
        count = self.model.config.num_hidden_layers
        stack = layer_stack(self.model, count)
        if stack is not None and max(self.layers) < count:
            hidden_states = read_until(lambda: self.model(**inputs), stack, self.layers)
        else:
            output = self.model(**inputs, output_hidden_states=True)
            hidden_states = [output.hidden_states[layer] for layer in self.layers]
        return torch.stack(hidden_states, dim=1)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, `batch text_tokens`, padded on the right to the longest prompt.

        A prompt longer than `max_length` is truncated with a warning. An empty one keeps a single padding token, since
        attention needs something to read.
        """
        texts = [self.instruction + prompt for prompt in prompts]
        if self.chat_template:
            texts = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
                for text in texts
            ]
        special = {"add_special_tokens": not self.chat_template}
        tokens = self.tokenizer(texts, **special, verbose=False)["input_ids"]
        lost = sum(max(len(row) - self.max_length, 0) for row in tokens)
        if lost:
            too_long = sum(len(row) > self.max_length for row in tokens)
            logger.warning(
                "%d of %d prompts are longer than %d tokens; %d tokens were cut.",
                too_long, len(tokens), self.max_length, lost,
            )  # fmt: skip
            tokens = self.tokenizer(texts, **special, truncation=True, max_length=self.max_length)["input_ids"]
        padding = self.tokenizer.pad_token_id or 0
        rows = [torch.tensor(row or [padding]) for row in tokens]
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = pad_sequence(rows, batch_first=True, padding_value=padding)
        return input_ids, torch.arange(input_ids.shape[1]) < lengths[:, None]
