"""Every op under one interface, so that the contract of design can be tested once for all of them."""

from typing import Literal

from cases.case import B, Case, copy, differentiable, floats
from cases.matrices import matrix, mru, scaled, snap
from cases.others import attends, cell, conv, long, m2rnn, named_cell
from cases.quotient import QUOTIENTS, mlstm, normalised
from cases.rank_one import delta, outer, phased, rule, signed
from cases.scan import LINEAR, dense_lti, linear, lti, selective

__all__ = [
    "CASES",
    "B",
    "Case",
    "attends",
    "cell",
    "conv",
    "copy",
    "delta",
    "differentiable",
    "floats",
    "linear",
    "m2rnn",
    "matrix",
    "mlstm",
    "mru",
    "named_cell",
    "normalised",
    "outer",
    "phased",
    "rule",
    "scaled",
    "signed",
    "snap",
]

OUTER: tuple[tuple[str, Literal["post", "pre"]], ...] = (
    ("none", "post"),
    ("head", "post"),
    ("row and column", "post"),
    ("channel", "pre"),
)
DELTA = (
    ("none", True, 1),
    ("head", False, 1),
    ("channel", False, 1),
    ("channel", True, 1),
    ("channel", False, 3),
    ("none", False, 2),
)


CASES = [
    matrix("reference"),
    matrix("cpu"),
    matrix("reference", R=4, v=True),
    matrix("cpu", R=4, v=True),
    scaled("reference"),
    matrix("triton", heads=1),
    matrix("triton", R=4, v=True, heads=1),
    scaled("cpu"),
    scaled("triton", heads=1),
    *(
        mru(backend, builder=builder, decay=decay, v=v, readout=readout, rescale=rescale)
        for backend in ("reference", "cpu")
        for builder, decay, v, readout, rescale in (
            ("reshape_identity", False, False, "normalised", True),
            ("ldu", True, False, "bounded", True),
            ("cayley", True, True, "state", False),
            ("ldu", False, True, "bounded", False),
        )
    ),
    snap("reference", groups=2),
    snap("cpu"),
    snap("triton", heads=1),
    mru("triton", decay=True, readout="bounded", rescale=True, heads=1),
    mru("composed", builder="householder", readout="state", rescale=True),
    m2rnn("reference"),
    m2rnn("cpu"),
    m2rnn("triton", K=4, heads=(1, 1, 3, 3, 1)),
    conv("reference"),
    conv("reference", activation="silu"),
    conv("cpu"),
    conv("cpu", activation="silu"),
    long("reference"),
    conv("triton", K=2, activation="silu"),
    *(outer(backend, decay, read) for backend in ("reference", "chunked", "cpu") for decay, read in OUTER),
    *(
        delta(backend, decay, write, micro_steps)
        for backend in ("reference", "chunked", "cpu")
        for decay, write, micro_steps in DELTA
        # The chunked form's sums of logarithms leave rounding, not zeros, in gradients of decays before a reset.
        if backend != "chunked" or micro_steps == 1 or decay == "none"
    ),
    *(
        rule(backend, decay, micro_steps)
        for backend in ("reference", "cpu")
        for decay, micro_steps in (("none", 1), ("head", 1), ("channel", 2))
    ),
    *(cell(backend, op) for backend in ("reference", "cpu") for op in ("rnn", "gru", "gru, reset after", "lstm")),
    *(named_cell("reference", name) for name in ("slstm", "lem", "mgu", "indrnn", "lstm_coupled")),
    *(
        named_cell("cpu", name)
        for name in ("slstm", "lem", "mgu", "indrnn", "elstm", "peephole_lstm", "lstm_coupled", "multiplicative_lstm")
    ),
    cell("triton", "rnn"),
    cell("triton", "gru", heads=1),
    cell("triton", "lstm", heads=1),
    *(linear(backend, decay) for backend in ("reference", "chunked", "cpu") for decay in LINEAR),
    linear("triton", "log step, shared"),
    linear("triton", "constant"),
    *(normalised(backend, *kind) for backend in ("reference", "chunked", "cpu") for kind in QUOTIENTS),
    *(mlstm(backend) for backend in ("reference", "chunked", "cpu")),
    *(phased(backend, "channel", "pre") for backend in ("reference", "chunked", "cpu")),
    *(signed(backend, "head") for backend in ("reference", "chunked", "cpu")),
    *(lti(backend, is_complex) for backend in ("reference", "chunked") for is_complex in (False, True)),
    *(dense_lti(backend, shared) for backend in ("reference", "chunked") for shared in (False, True)),
    selective("reference"),
    selective("chunked"),
    attends(None, "reference"),
    attends(3, "reference"),
    attends(None, "sdpa"),
    attends(None, "reference", forgets=True),
    attends(3, "reference", forgets=True),
    attends(3, "sdpa", forgets=True),
    attends(3, "reference", turns=True),
    attends(None, "sdpa", forgets=True, turns=True),
]
