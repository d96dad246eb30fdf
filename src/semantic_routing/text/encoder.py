"""Prompts in, hidden states of chosen language-model layers out."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..io.files import sha256
from ..io.messages import brief
from .depth import first_layers, layer_stack, run_layers, without_heads
from .feature_cache import FeatureCache, fingerprint
from .feature_memory import FeatureMemory
from .feature_pool import FeaturePool
from .loading import load_language_model, load_language_model_config, load_tokenizer

logger = logging.getLogger(__name__)

LAST_LAYER = ("normalized", "raw")

# In float32 a prompt may be padded by this share of the longest of its group. Padding changes how features are rounded:
# by 1e-6 in float32, by several percent in bfloat16. So half precision reads only prompts of equal length together.
MAX_PADDING = 0.25

# Captions that a pool's features are computed of at once.
POOL_BATCH = 256


class Reading(TypedDict, total=False):
    """What of a language model is read, and how prompts are put to it; see `TextEncoder`."""

    layers: str | int | Sequence[int]
    instruction: str
    chat_template: bool
    max_length: int
    last_layer: str


class TextFeatures(NamedTuple):
    """Hidden states of a batch of prompts, padded on the right to the longest, and which tokens are real."""

    hidden_states: Float[Tensor, "batch layers text_tokens text_channels"]
    mask: Bool[Tensor, "batch text_tokens"]

    @classmethod
    def of(cls, states: Sequence[Float[Tensor, "layers _ text_channels"]]) -> "TextFeatures":
        """Pads features of single prompts to the longest."""
        lengths = torch.tensor([state.shape[1] for state in states])
        padded = pad_sequence([state.transpose(0, 1) for state in states], batch_first=True)
        return cls(padded.transpose(1, 2), torch.arange(padded.shape[1]) < lengths[:, None])

    def each(self) -> list[Float[Tensor, "layers _ text_channels"]]:
        """The features of each prompt, of its real tokens alone."""
        return [state[:, : int(mask.sum())] for state, mask in zip(self.hidden_states, self.mask, strict=True)]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "TextFeatures":
        """Moves both, and casts the hidden states."""
        return TextFeatures(self.hidden_states.to(device, dtype), self.mask.to(device))


class PooledText(NamedTuple):
    """Features of known prompts, and the precision that they were computed in."""

    features: FeaturePool
    precision: torch.dtype


def resolve_layers(layers: str | int | Sequence[int], num_hidden_layers: int) -> list[int]:
    """Turns a choice of layers into indices of the model's hidden states, shallow first.

    Index 0 is the token embeddings and index k the output of layer k. Negative indices count from the end.

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
        raise ValueError(f"Layers must be 'all', a number or a non-empty list of indices, not {brief(layers)}.")
    for layer in layers:
        if not -num_hidden_layers - 1 <= layer <= num_hidden_layers:
            raise ValueError(f"Layer {layer} is out of range: the language model has layers 0 to {num_hidden_layers}.")
    return sorted({layer % (num_hidden_layers + 1) for layer in layers})


def buckets(lengths: Sequence[int], max_padding: float) -> list[list[int]]:
    """Groups rows of similar length, so that little is computed for padding.

    Longest first; a group ends at the first row of which more than `max_padding` would be padding.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or lengths[row] < (1 - max_padding) * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return groups


class TextEncoder:
    """A language model and how prompts are put to it.

    Only the layers that are read are kept: `model` here is a copy that ends at the deepest of them and shares the
    weights of the model given, which stays as it is. Of that copy the last layer is read before the final norm, as a
    layer in the middle is, so that `last_layer` is then "raw". A pipeline that keeps `model`, `layers` and `last_layer`
    reads the same again.

    A prompt's features do not depend on the other prompts of a call: in bfloat16 and float16 bit for bit on a CPU, in
    float32 up to rounding.

    Args:
        model: a `transformers` model; heads and a vision tower are left out.
        tokenizer: its tokenizer.
        layers: see `resolve_layers`.
        instruction: text put before every prompt, joined without a separator, as in the reference.
        chat_template: wrap instruction and prompt as a user's message in the tokenizer's own template.
        max_length: tokens, instruction included, after which a prompt is cut.
        last_layer: read the model's last layer after its final norm ("normalized"), or before it ("raw"). What
            `hidden_states[-1]` is in `transformers` depends on class and version; here it does not.

    Raises:
        ValueError: an option that this model or tokenizer does not have, or a layer out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layers: str | int | Sequence[int] = "all",
        instruction: str = "",
        chat_template: bool = False,
        max_length: int = 512,
        last_layer: str = "normalized",
    ) -> None:
        if chat_template and not getattr(tokenizer, "chat_template", None):
            raise ValueError(f"chat_template is set, but {type(tokenizer).__name__} comes without a template.")
        if last_layer not in LAST_LAYER:
            raise ValueError(f"last_layer must be 'normalized' or 'raw', not {brief(last_layer)}.")
        model = without_heads(model)
        self.layers = self.resolve(layers, model.config)
        depth = self.layers_computed(self.layers, model.config)
        self.model = first_layers(model, depth)
        self.last_layer = last_layer if self.model is model else "raw"
        self.tokenizer = tokenizer
        self.instruction = instruction
        self.chat_template = chat_template
        limit = getattr(model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, limit)
        self.cache: FeatureCache | None = None
        self.pooled: PooledText | None = None
        self.memory: FeatureMemory | None = None
        if self.last_layer == "raw" and layer_stack(self.model, self.model.config.num_hidden_layers) is None:
            raise ValueError(
                f"The layers of {type(self.model).__name__} are not one list, so its last layer cannot be read before "
                "the final norm; last_layer must be 'normalized'."
            )

    @classmethod
    def load(cls, name: str, dtype: torch.dtype = torch.float32, **reading: Unpack[Reading]) -> "TextEncoder":
        """Loads a language model by name, of its layers only those that are read.

        Args:
            name: folder, hub name, or `package:NAME`.
            dtype: of the weights.
            **reading: see the class.

        Raises:
            ValueError: there is no such model, or it does not have what is asked for.
        """
        config = load_language_model_config(name)
        layers = cls.resolve(reading.get("layers", "all"), config)
        depth = cls.layers_computed(layers, config)
        model = load_language_model(name, dtype, depth)
        if model.config.num_hidden_layers < config.num_hidden_layers:
            reading["last_layer"] = "raw"
        return cls(model, load_tokenizer(name), **(reading | {"layers": layers}))

    @classmethod
    def resolve(cls, layers: str | int | Sequence[int], config: PreTrainedConfig) -> list[int]:
        """The layers that a choice means for a language model of this `transformers` configuration."""
        return resolve_layers(layers, config.num_hidden_layers)

    @classmethod
    def channels(cls, config: PreTrainedConfig) -> int:
        """Width of what is read of a language model of this `transformers` configuration."""
        return int(config.hidden_size)

    @classmethod
    def layers_computed(cls, layers: Sequence[int], config: PreTrainedConfig) -> int:
        """How many of its layers run: up to the deepest chosen, and one where only the embeddings are."""
        return max(1, *layers)

    @property
    def num_channels(self) -> int:
        """Width of the hidden states."""
        return self.channels(self.model.config)

    def use_cache(self, folder: Path, gib: float) -> None:
        """From now on reads features from a folder, and keeps there what it lacks, up to a size; see `FeatureCache`."""
        self.cache = FeatureCache(folder, int(gib * 2**30))

    def use_pool(self, folder: Path, captions: Iterable[str]) -> None:
        """From now on takes features of some captions, and of the empty one, from a folder; see `FeaturePool`.

        Those that are not there are computed now, `POOL_BATCH` captions at a time, in the precision of this moment.
        """

        def read(missing: Sequence[str]) -> Iterator[Tensor]:
            for start in range(0, len(missing), POOL_BATCH):
                yield from self._encode(missing[start : start + POOL_BATCH])

        distinct = list(dict.fromkeys(["", *captions]))
        keys = {caption: self._key(ids) for caption, ids in zip(distinct, self.token_ids(distinct), strict=True)}
        self.pooled = PooledText(FeaturePool(folder, keys, read), self.precision)

    def use_memory(self, limit: int) -> None:
        """From now on keeps features of the last prompts in memory, up to `limit` bytes; see `FeatureMemory`.

        They are used in the precision of this moment alone. In float32 none are kept: there the last bits depend on
        the other prompts of a call, so that a resumed training, which remembers nothing, would be another one.
        """
        self.memory_precision = self.precision
        self.memory = None if self.precision == torch.float32 else FeatureMemory(limit)

    @cached_property
    def _fingerprint(self) -> str:
        """Of the language model, whose weights must not change after this, and of what is read of it."""
        return fingerprint(self.model, f"{type(self).__name__} {self.layers} {self.last_layer}")

    def _key(self, ids: list[int]) -> str:
        return sha256(f"{self._fingerprint} {self.precision} {ids}")

    def __call__(self, prompts: Sequence[str]) -> TextFeatures:
        """Encodes prompts, each distinct one once, on the model's device and in its dtype."""
        if not prompts:
            raise ValueError("There is no prompt to encode.")
        if self.pooled is not None and self.pooled.precision != self.precision:
            raise ValueError(f"The pool's features are in {self.pooled.precision}; {self.precision} is asked for.")
        states = self._states(list(dict.fromkeys(prompts)))
        lengths = torch.tensor([states[prompt].shape[1] for prompt in prompts])
        longest = int(lengths.max())
        shape = (len(prompts), len(self.layers), longest, self.num_channels)
        # Where all come from the pool they are put together on the CPU and moved at once.
        device = "cpu" if all(state.is_cpu for state in states.values()) else self.model.device
        hidden_states = torch.zeros(shape, device=device, dtype=self.model.dtype)
        for row, prompt in enumerate(prompts):
            hidden_states[row, :, : lengths[row]] = states[prompt]
        return TextFeatures(hidden_states, torch.arange(longest) < lengths[:, None]).to(self.model.device)

    def _states(self, prompts: Sequence[str]) -> dict[str, Float[Tensor, "layers text_tokens text_channels"]]:
        """Hidden states of distinct prompts: from the pool, from memory, and of the others new ones."""
        states = self.pooled.features.find(prompts) if self.pooled is not None else {}
        memory = self.memory if self.memory is not None and self.memory_precision == self.precision else None
        if memory is not None:
            states |= memory.find([prompt for prompt in prompts if prompt not in states])
        missing = [prompt for prompt in prompts if prompt not in states]
        new = dict(zip(missing, self._encode(missing), strict=True))
        if memory is not None:
            memory.keep(new)
        return states | new

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> list[Float[Tensor, "layers text_tokens text_channels"]]:
        """Hidden states of each prompt, from the cache or the language model."""
        if not prompts:
            return []
        tokens = self.token_ids(prompts)
        states: dict[int, Tensor] = {}
        if self.cache is not None:
            # One by one: the last bits depend on a batch's shape, and what is kept must depend on its prompt alone.
            for row, ids in enumerate(tokens):
                states[row] = self.cache.read(self._key(ids), partial(self._read_alone, ids))
        else:
            max_padding = MAX_PADDING if self.precision == torch.float32 else 0.0
            for rows in buckets([len(ids) for ids in tokens], max_padding):
                states |= dict(zip(rows, self._read([tokens[row] for row in rows]), strict=True))
        return [states[row] for row in range(len(prompts))]

    @property
    def precision(self) -> torch.dtype:
        """That the language model computes in: its own, or that of `torch.autocast`."""
        device = self.model.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.model.dtype

    def _read(self, tokens: list[list[int]]) -> list[Tensor]:
        """As `read`, without padding in the result; in half precision for prompts of one length.

        Then features of a prompt are the same, bit for bit, whatever prompts are read with it.
        """
        # A matrix of one row is multiplied by other routines than one of two, and rounded otherwise.
        times = 2 if len(tokens) == len(tokens[0]) == 1 and self.precision != torch.float32 else 1
        input_ids, mask = (tensor.to(self.model.device) for tensor in self._pad(tokens * times))
        hidden_states = self.read(input_ids, mask)
        return [hidden_states[row, :, : len(ids)] for row, ids in enumerate(tokens)]

    def _read_alone(self, tokens: list[int]) -> Tensor:
        return self._read([tokens])[0]

    def read(
        self, input_ids: Int[Tensor, "batch text_tokens"], mask: Bool[Tensor, "batch text_tokens"]
    ) -> Float[Tensor, "batch layers text_tokens text_channels"]:
        """Runs the language model."""
        # The mask is passed on: a decoder would not need it with padding on the right, an encoder does.
        inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
        return torch.stack(run_layers(self.model, inputs, self.layers, self.last_layer == "normalized"), dim=1)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, `batch text_tokens`, padded on the right to the longest prompt; see `token_ids`."""
        return self._pad(self.token_ids(prompts))

    def texts(self, prompts: Sequence[str]) -> list[str]:
        """What is tokenized: prompts with instruction and chat template."""
        texts = [self.instruction + prompt for prompt in prompts]
        if not self.chat_template:
            return texts
        turns = ([{"role": "user", "content": text}] for text in texts)
        return [
            str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)) for turn in turns
        ]

    def token_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt, with instruction and chat template.

        A prompt longer than `max_length` is truncated with a warning. An empty one keeps a single padding token, since
        attention needs something to read.
        """
        texts = self.texts(prompts)
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
        return [row or [self._padding] for row in tokens]

    def _pad(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(row) for row in tokens]
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = pad_sequence(rows, batch_first=True, padding_value=self._padding)
        return input_ids, torch.arange(input_ids.shape[1]) < lengths[:, None]

    @property
    def _padding(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)
