"""Text encoders: any Hugging Face language model in; hidden states of the wanted layers, and a mask, out."""

from .encoder import TextEncoder, TextFeatures, resolve_layers
from .key_values import KeyValueEncoder
from .loading import load_language_model, load_tokenizer

__all__ = ["KeyValueEncoder", "TextEncoder", "TextFeatures", "load_language_model", "load_tokenizer", "resolve_layers"]
