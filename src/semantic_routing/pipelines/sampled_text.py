"""The text of a batch of images while it is sampled."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import scale_lora_layers, unscale_lora_layers
from jaxtyping import Float
from torch import Tensor

from ..models import DiffusionTransformer2DModel, TextContext
from ..models.backbone import ContextOfState
from ..text import TextEncoder, TextFeatures


class SampledText:
    """Hidden states of distinct texts, which of them each row of a step reads, and what the transformer makes of them.

    Args:
        features: of the texts.
        rows: the text of each row: those of negative prompts first, where there are any.
    """

    def __init__(self, features: TextFeatures, rows: Sequence[int]) -> None:
        self.features = features
        self.rows = torch.tensor(list(rows))
        self._gains: Float[Tensor, "blocks layers"] | None = None
        self._scale = 1.0
        self._prepared: Any = None
        self._context: TextContext | ContextOfState | None = None

    @classmethod
    def of(
        cls,
        encoder: TextEncoder,
        prompts: TextFeatures | list[str],
        negatives: TextFeatures | list[str] | None,
        images_per_prompt: int,
    ) -> "SampledText":
        """Encodes what is not encoded yet; a text that several rows share is encoded once."""
        groups = [prompts] if negatives is None else [negatives, prompts]
        texts = [text for group in groups if isinstance(group, list) for text in group]
        distinct = list(dict.fromkeys(texts))
        parts = [encoder(distinct)] if distinct else []
        rows: list[int] = []
        start = len(distinct)
        for group in groups:
            if isinstance(group, list):
                places = [distinct.index(text) for text in group]
            else:
                places = list(range(start, start + len(group.mask)))
                parts, start = [*parts, group], start + len(group.mask)
            rows += [place for place in places for _ in range(images_per_prompt)]
        return cls(_joined(parts), rows)

    def prepare(
        self,
        transformer: DiffusionTransformer2DModel,
        device: torch.device,
        gains: Float[Tensor, "blocks layers"] | None = None,
        scale: float = 1.0,
    ) -> None:
        """Does what depends on the texts alone; `gains` and `scale` are those of `fusion.Prepared`."""
        self.features, self.rows = self.features.to(device, transformer.dtype), self.rows.to(device)
        self._gains, self._scale = gains, scale
        self._prepared, self._context = transformer.prepare_text(*self.features, reused=True), None
        if gains is not None or scale != 1:
            self._prepared = self._prepared._replace(gains=None if gains is None else gains.to(device), scale=scale)

    def context(
        self, transformer: DiffusionTransformer2DModel, timestep: Float[Tensor, " one"], lora_scale: float = 1.0
    ) -> TextContext | ContextOfState:
        """What all rows read at a timestep; it is made once where it does not vary with time.

        Keys and values are made here, so that a LoRA on them acts here, at its scale.
        """
        if self._context is None or "timestep" in transformer.varies_with:
            scale_lora_layers(transformer, lora_scale)
            try:
                self._context = transformer.text_context(self._prepared, timestep, cache=True).rows(self.rows)
            finally:
                unscale_lora_layers(transformer, lora_scale)
        return self._context

    def embeds(self) -> Float[Tensor, "rows layers text_tokens text_channels"]:
        """The hidden states of all rows."""
        return self.features.hidden_states[self.rows]

    def drop_negatives(self, count: int) -> None:
        """Leaves the last `count` rows, those of the prompts."""
        if len(self.rows) > count:
            self.rows, self._context = self.rows[-count:], None

    def replace(self, transformer: DiffusionTransformer2DModel, embeds: Tensor) -> None:
        """Takes other hidden states for the rows, if they are some, one a row."""
        if len(embeds) != len(self.rows) or embeds.equal(self.embeds()):
            return
        mask = self.features.mask[self.rows]
        self.features, self.rows = TextFeatures(embeds, mask), torch.arange(len(embeds), device=mask.device)
        self.prepare(transformer, mask.device, self._gains, self._scale)


def given_features(
    transformer: DiffusionTransformer2DModel,
    text: str | list[str] | None,
    embeds: Tensor | None,
    mask: Tensor | None,
    name: str = "prompt",
) -> TextFeatures | None:
    """The hidden states that a caller gives in place of text; None where there are none.

    Raises:
        ValueError: both or neither are given, or the hidden states do not fit the transformer or the mask.
    """
    if embeds is None:
        if not text and name == "prompt" and text != "":
            raise ValueError("There is no prompt to sample: give prompt or prompt_embeds.")
        return None
    if text is not None:
        raise ValueError(f"{name} and {name}_embeds are both given: expected one of them.")
    config = transformer.config
    wanted = (config.num_text_layers, config.text_channels)
    if embeds.ndim != 4 or (embeds.shape[1], embeds.shape[3]) != wanted:
        raise ValueError(
            f"{name}_embeds must have shape (prompts, {wanted[0]}, tokens, {wanted[1]}), not {tuple(embeds.shape)}."
        )
    if mask is None:
        mask = torch.ones(len(embeds), embeds.shape[2], device=embeds.device)
    if mask.shape != (len(embeds), embeds.shape[2]):
        raise ValueError(
            f"{name}_attention_mask must have shape {(len(embeds), embeds.shape[2])}, not {tuple(mask.shape)}."
        )
    return TextFeatures(embeds, mask.to(embeds.device) != 0)


def _joined(parts: list[TextFeatures]) -> TextFeatures:
    """Texts of several lengths, padded on the right to the longest."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.mask.shape[1] for part in parts)
    like = parts[0].hidden_states
    states = [F.pad(part.hidden_states.to(like), (0, 0, 0, length - part.mask.shape[1])) for part in parts]
    masks = [F.pad(part.mask.to(like.device), (0, length - part.mask.shape[1])) for part in parts]
    return TextFeatures(torch.cat(states), torch.cat(masks))
