"""How the matrix recurrent unit makes a matrix of a token; the functions themselves are with the op that fuses them."""

from matrixstate.ops.mru.builders import BUILDERS, Builder, build_state_matrix

__all__ = ["BUILDERS", "Builder", "build_state_matrix"]
