"""How good a trained model is."""

from matrixstate.evaluation.loss import PositionLoss, TextLoss, text_loss

__all__ = ["PositionLoss", "TextLoss", "text_loss"]
