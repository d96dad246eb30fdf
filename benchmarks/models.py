"""Random models in the proportions of the full-size recipe, at any width; nothing is downloaded."""

from typing import Any, NamedTuple

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen3Config

from semantic_routing.models import SemanticRoutingTransformer2DModel
from semantic_routing.models.flops import Sampling
from semantic_routing.pipelines import SemanticRoutingPipeline

VOCABULARY = 1024
MAX_LENGTH = 512


class Sizes(NamedTuple):
    """One dial for all widths: they keep the proportions that they have in the full-size recipe.

    There a DiT of width 2048 has 32 query and 8 key/value heads, and reads a language model of width 2560 that has as
    many heads. Heads are 128 wide at every width.
    """

    width: int = 2048
    blocks: int = 24
    text_layers: int = 36
    latent_size: int = 32
    latent_channels: int = 16

    def checked(self) -> "Sizes":
        """Itself.

        Raises:
            ValueError: at this width, heads or channels would be fractions.
        """
        if self.width < 256 or self.width % 256:
            raise ValueError(f"--width must be a multiple of 256, not {self.width}.")
        return self

    @property
    def text_channels(self) -> int:
        """Width of the language model."""
        return self.width * 5 // 4

    @property
    def heads(self) -> dict[str, Any]:
        """Of DiT and language model, in the words that both configurations share."""
        return {"num_attention_heads": self.width // 64, "num_key_value_heads": self.width // 256}

    def __str__(self) -> str:
        return (
            f"width {self.width}, {self.blocks} blocks, {self.latent_size} × {self.latent_size} latents; "
            f"language model {self.text_channels} × {self.text_layers} layers"
        )


def make_transformer(
    sizes: Sizes, strategy: str, device: torch.device, dtype: torch.dtype = torch.float32, **options: Any
) -> SemanticRoutingTransformer2DModel:
    """A DiT with further options; its output layer is not zero, as it would be at the start of training."""
    with device:
        model = SemanticRoutingTransformer2DModel(
            strategy,
            num_text_layers=sizes.text_layers,
            text_channels=sizes.text_channels,
            num_blocks=sizes.blocks,
            hidden_size=sizes.width,
            in_channels=sizes.latent_channels,
            sample_size=sizes.latent_size,
            **sizes.heads,
            **options,
        )
    torch.nn.init.normal_(model.proj_out.weight, std=0.02)
    for name, part in model.named_children():
        if name != "fusion":  # which stays in float32, as in a loaded model
            part.to(dtype)
    return model


def language_model_config(sizes: Sizes) -> Qwen3Config:
    """Of the family that the recipe reads."""
    return Qwen3Config(
        hidden_size=sizes.text_channels,
        intermediate_size=sizes.text_channels * 19 // 5,
        num_hidden_layers=sizes.text_layers,
        head_dim=128,
        vocab_size=VOCABULARY,
        **sizes.heads,
    )


def make_language_model(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Any:
    """A frozen language model without head."""
    with device:
        model: Any = AutoModel.from_config(language_model_config(sizes), dtype=dtype)  # type: ignore[no-untyped-call]
    return model.eval().requires_grad_(False)


def make_tokenizer() -> Any:
    """One token a word, of the words that `caption` writes."""
    words = {f"word{number}": number for number in range(1, VOCABULARY)}
    backend = Tokenizer(WordLevel({"<pad>": 0, **words}, unk_token="<pad>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer: Any = PreTrainedTokenizerFast
    return tokenizer(tokenizer_object=backend, pad_token="<pad>")


def caption(tokens: int, number: int = 0) -> str:
    """That many tokens; captions of different numbers differ."""
    return " ".join(f"word{1 + (number + position) % (VOCABULARY - 1)}" for position in range(tokens))


def spread_lengths(mean: int, count: int) -> list[int]:
    """Lengths of captions, evenly spaced from a third of the mean to five thirds of it."""
    if count == 1:
        return [mean]
    return [round(mean * (1 / 3 + 4 / 3 * number / (count - 1))) for number in range(count)]


def guided(latent_size: int, tokens: int, steps: int) -> Sampling:
    """What to count for one guided image: as many real tokens a row as its prompt and the empty one, of one, have."""
    return Sampling(latent_size, (tokens + 2) // 2, steps, rows=2)


def make_pipeline(sizes: Sizes, strategy: str, device: torch.device, dtype: torch.dtype) -> SemanticRoutingPipeline:
    """Without an autoencoder: images are latents."""
    return SemanticRoutingPipeline(
        transformer=make_transformer(sizes, strategy, device, dtype).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=make_language_model(sizes, device, dtype),
        tokenizer=make_tokenizer(),
        max_length=MAX_LENGTH,
    )
