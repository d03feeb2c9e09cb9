"""Recurrent sequence models with matrix-valued state, and what they are measured against."""

__version__ = "0.1.0"
