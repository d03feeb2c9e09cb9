"""Mixers with a nonlinear recurrence, which has to be computed step by step."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.cells.gru import GRU, GRUConfig
from matrixstate.mixers.cells.lstm import LSTM, LSTMConfig
from matrixstate.mixers.cells.m2rnn import M2RNN, M2RNNConfig
from matrixstate.mixers.cells.rnn import RNN, RNNConfig

MIXERS: dict[str, type[MixerConfig]] = {"m2rnn": M2RNNConfig, "rnn": RNNConfig, "gru": GRUConfig, "lstm": LSTMConfig}
"""Names of the family's mixers in configuration files."""

__all__ = ["GRU", "LSTM", "M2RNN", "MIXERS", "RNN", "GRUConfig", "LSTMConfig", "M2RNNConfig", "RNNConfig"]
