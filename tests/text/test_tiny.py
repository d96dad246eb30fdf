"""The tiny models that `sroute tiny-models` writes, and their tokenizer."""

from pathlib import Path

import pytest
from diffusers import AutoencoderKL
from typer.testing import CliRunner

from semantic_routing.cli import app
from semantic_routing.text import TextEncoder
from semantic_routing.text.tiny import TINY_MODELS, WORDS, tiny_tokenizer


def test_the_command_writes_what_loads(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    result = CliRunner().invoke(app, ["tiny-models", str(out)])
    assert result.exit_code == 0, result.output
    for name in TINY_MODELS:
        assert f"text.model={out / name}\n" in result.output
        encoder = TextEncoder.load(str(out / name), layers=[1, 4])
        assert encoder(["a red circle"]).hidden_states.shape == (1, 2, 3, 32)
    assert f"vae.model={out / 'vae'}\n" in result.output
    assert AutoencoderKL.from_pretrained(out / "vae").config.latent_channels == 4
    with pytest.raises(ValueError, match="exists already"):
        CliRunner().invoke(app, ["tiny-models", str(out)], catch_exceptions=False)


def test_any_text_has_tokens_and_known_words_have_one() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) <= 320
    assert len(tokenizer(" ".join(WORDS))["input_ids"]) == len(WORDS)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a Zebra, 2 m (red)!")["input_ids"])
    assert pieces == ["a", "Z", "##e", "##b", "##r", "##a", ",", "2", "m", "(", "red", ")", "##!"]
