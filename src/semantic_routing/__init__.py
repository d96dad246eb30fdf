"""Semantic routing: diffusion transformers that learn which language-model layers to listen to (arXiv 2602.03510)."""

__version__ = "0.1.0"
