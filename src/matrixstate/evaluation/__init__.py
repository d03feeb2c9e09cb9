"""Measures of trained models: loss, state tracking, recall, the states themselves, and numerical equivalence."""

from matrixstate.evaluation.loss import PositionLoss, TextLoss, text_loss

__all__ = ["PositionLoss", "TextLoss", "text_loss"]
