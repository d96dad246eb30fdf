"""Checkpoints of the paper's reference implementation, in and out."""

from .convert import Parts, convert, convert_to_reference

__all__ = ["Parts", "convert", "convert_to_reference"]
