"""Mixers with a nonlinear recurrence, which has to be computed step by step."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.cells.cfc import CfC, CfCConfig
from matrixstate.mixers.cells.elstm import ELSTM, ELSTMConfig
from matrixstate.mixers.cells.gru import GRU, GRUConfig
from matrixstate.mixers.cells.hippo import HiPPO, HiPPOConfig
from matrixstate.mixers.cells.indrnn import IndRNN, IndRNNConfig
from matrixstate.mixers.cells.lem import LEM, LEMConfig
from matrixstate.mixers.cells.lmu_cell import LMUCell, LMUCellConfig
from matrixstate.mixers.cells.lstm import LSTM, LSTMConfig
from matrixstate.mixers.cells.ltc import LTC, LTCConfig
from matrixstate.mixers.cells.m2rnn import M2RNN, M2RNNConfig
from matrixstate.mixers.cells.mgu import MGU, MGUConfig
from matrixstate.mixers.cells.multiplicative_lstm import MultiplicativeLSTM, MultiplicativeLSTMConfig
from matrixstate.mixers.cells.peephole_lstm import PeepholeLSTM, PeepholeLSTMConfig
from matrixstate.mixers.cells.rnn import RNN, RNNConfig
from matrixstate.mixers.cells.slstm import SLSTM, SLSTMConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "m2rnn": M2RNNConfig,
    "rnn": RNNConfig,
    "gru": GRUConfig,
    "lstm": LSTMConfig,
    "lem": LEMConfig,
    "mgu": MGUConfig,
    "peephole_lstm": PeepholeLSTMConfig,
    "slstm": SLSTMConfig,
    "indrnn": IndRNNConfig,
    "elstm": ELSTMConfig,
    "multiplicative_lstm": MultiplicativeLSTMConfig,
    "hippo": HiPPOConfig,
    "ltc": LTCConfig,
    "cfc": CfCConfig,
    "lmu_cell": LMUCellConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "ELSTM",
    "GRU",
    "LEM",
    "LSTM",
    "LTC",
    "M2RNN",
    "MGU",
    "MIXERS",
    "RNN",
    "SLSTM",
    "CfC",
    "CfCConfig",
    "ELSTMConfig",
    "GRUConfig",
    "HiPPO",
    "HiPPOConfig",
    "IndRNN",
    "IndRNNConfig",
    "LEMConfig",
    "LMUCell",
    "LMUCellConfig",
    "LSTMConfig",
    "LTCConfig",
    "M2RNNConfig",
    "MGUConfig",
    "MultiplicativeLSTM",
    "MultiplicativeLSTMConfig",
    "PeepholeLSTM",
    "PeepholeLSTMConfig",
    "RNNConfig",
    "SLSTMConfig",
]
