"""The maps from a token's elements to a square matrix X_t, defined beside the op `mru_scan` that fuses them."""

from matrixstate.ops.mru.builders import BUILDERS, Builder, build_state_matrix

__all__ = ["BUILDERS", "Builder", "build_state_matrix"]
