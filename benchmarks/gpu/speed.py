"""The third stage: every op at the size of a model, checked over the whole length and timed against what else there is.

The bound is every input and output moved once at the speed of a copy or, where it takes longer, M²RNN's tanh at 16 per
clock and multiprocessor. No op here is bound by its products on tensor cores.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from against_float64 import nudged, run, with_halves
from cases import (
    Case,
    cell,
    conv,
    copy,
    delta,
    differentiable,
    floats,
    linear,
    m2rnn,
    matrix,
    mru,
    outer,
    rule,
    scaled,
    snap,
)
from torch import Tensor

from gpu.stage import GB, Stage
from matrixstate.evaluation.closeness import is_as_good
from matrixstate.layers import state_leaves
from matrixstate.ops import OPS

RESETS = 1 / 100  # of all steps begin a document, which keeps long products within float32
COPIES = 3  # of the inputs, which take turns
COMPILED = ("chunked",)  # backends of PyTorch's operators whose compilation is timed too


@dataclass(frozen=True)
class Work:
    """One op at one size. `small` is the same with fewer heads and rows, for the check against float64."""

    name: str
    case: Case
    small: Case
    T: int
    tanh: int = 0  # evaluations per step

    @property
    def op(self) -> str:
        return self.case.op


def works(tiny: bool) -> list[Work]:
    """All sizes; --tiny keeps the ops and takes sizes that the interpreter can do."""
    if tiny:
        sizes = [m2rnn("auto", 4, 5, (1, 1, 2, 2, 2)), conv("auto"), mru("auto", rescale=True), outer("auto", "head")]
        return [Work(case.op, case, case, 5) for case in sizes]
    b, few = {"batch": 8}, {"batch": 1}
    shared = lambda heads: (1, 1, heads, heads, heads)  # noqa: E731
    found = [
        Work(
            f"m2rnn_scan, B 8, T 4096, 84 heads, K 64, V {V}, q and k shared",
            m2rnn("auto", 64, V, shared(84), **b),
            m2rnn("auto", 64, V, shared(2), **few),
            4096,
            tanh=8 * 84 * 64 * V,
        )
        for V in (16, 32, 64)
    ]
    found += [
        Work(
            f"mru_scan, {builder}, B 16, T 2048, 12 heads of 16",
            mru("auto", 16, 16, builder, **options, heads=12, batch=16),
            mru("auto", 16, 16, builder, **options, heads=2, batch=1),
            2048,
        )
        for builder, options in (
            ("reshape_identity", {"rescale": True, "readout": "bounded"}),
            ("ldu", {"rescale": True, "readout": "normalised"}),
            ("cayley", {"decay": True, "v": True}),
        )
    ]
    found.append(
        Work(
            "mru_scan, few chains: ldu, B 1, T 16384, 6 heads of 16",
            mru("auto", 16, 16, "ldu", rescale=True, readout="bounded", heads=6, batch=1),
            mru("auto", 16, 16, "ldu", rescale=True, readout="bounded", heads=2, batch=1),
            16_384,
        )
    )
    pairs = [
        ("matrix_scan, B 16, T 2048, 12 heads of 16", partial(matrix, D=16, v=True), 2048, 12, 16),
        ("scaled_matrix_scan, B 16, T 2048, 12 heads of 16", partial(scaled, D=16), 2048, 12, 16),
        ("snap_scan, B 16, T 512, 12 heads of 8", partial(snap, D=8, codes=24), 512, 12, 16),
        ("rnn_scan, B 64, T 512, 8 heads of 64", partial(cell, kind="rnn", d=64), 512, 8, 64),
        ("gru_scan, B 64, T 512, 8 heads of 64", partial(cell, kind="gru", d=64), 512, 8, 64),
        ("lstm_scan, B 64, T 512, 8 heads of 64", partial(cell, kind="lstm", d=64), 512, 8, 64),
        ("gru_scan, dense: B 64, T 512, one head of 512", partial(cell, kind="gru", d=512), 512, 1, 64),
        ("outer_scan, no decay, B 8, T 4096, 16 heads of 128", partial(outer, decay="none", K=128, V=128), 4096, 16, 8),
        ("outer_scan, per head, B 8, T 4096, 16 heads of 128", partial(outer, decay="head", K=128, V=128), 4096, 16, 8),
        (
            "outer_scan, per channel, B 4, T 2048, 8 heads of 64",
            partial(outer, decay="channel", K=64, V=64),
            2048,
            8,
            4,
        ),
        ("delta rule, B 8, T 4096, 16 heads of 128", partial(rule, K=128, V=128), 4096, 16, 8),
        ("gated delta rule, B 8, T 4096, 16 heads of 128", partial(rule, decay="head", K=128, V=128), 4096, 16, 8),
        ("delta, per channel, B 4, T 2048, 8 heads of 64", partial(delta, decay="channel", K=64, V=64), 2048, 8, 4),
    ]
    for name, make, T, heads, batch in pairs:
        found.append(Work(name, make("auto", heads=heads, batch=batch), make("auto", heads=min(heads, 2), batch=1), T))
    for decay in ("log step", "log step, shared", "constant"):
        name = f"linear_scan, decay {decay}, B 8, T 4096, 16 x 128"
        found.append(Work(name, linear("auto", decay, 16, 128, batch=8), linear("auto", decay, 2, 16, batch=1), 4096))
    wide = partial(conv, "auto", K=4, activation="silu")
    found.append(
        Work("causal_conv, silu, B 8, T 4096, 2048 channels", wide(C=2048, batch=8), wide(C=16, batch=1), 4096)
    )
    return found


def draw(case: Case, T: int) -> tuple:
    """As models have them: inputs in bfloat16, gates, parameters and the state in float32; some resets."""
    sequence, fixed, state = case.sequence(T, torch.float32), case.fixed(torch.float32), case.state(torch.float32)
    return sequence, fixed, state, torch.rand(_rows(sequence), T) < RESETS if case.resets else None


def _rows(sequence: dict[str, Tensor]) -> int:
    return next(iter(sequence.values())).shape[0]


def backends_of(work: Work, device: str) -> list[str]:
    return [b.name for b in OPS[work.op] if b.name != "cpu" and b.why_not(device, torch.bfloat16) is None]


def check(stage: Stage, work: Work) -> None:
    """The largest error of outputs and of gradients, over the whole length, beside plain PyTorch's in float32."""
    sequence, fixed, state, reset = draw(work.small, work.T)
    drawn = {n: x.double() for n, x in sequence.items()}, {n: x.double() for n, x in fixed.items()}, state, reset
    exact = run(work.small, drawn, "reference", torch.float64)
    plain = [run(work.small, inputs, "reference", torch.float32) for inputs in (drawn, nudged(drawn))]
    device = stage.device.type
    wide = [name for name in backends_of(work, device) if not _is_narrow(work.op, name, device)]
    for backend in (name for name in wide if name != "reference"):
        what = {"op": work.name, "backend": backend}
        stage.attempt(
            "errors over the whole length, float32", what, partial(_errors, work, drawn, backend, plain, exact)
        )


def _errors(work: Work, drawn: tuple, backend: str, plain: list[dict], exact: dict) -> dict[str, Any]:
    got = run(work.small, drawn, backend, torch.float32)
    wrong, worst, worst_plain = [], 0.0, 0.0
    for name, value in got.items():
        if not value.is_floating_point():
            continue
        size = exact[name].abs().max().item()
        ours, *theirs = ((x[name].double() - exact[name]).abs().max().item() for x in (got, *plain))
        if not is_as_good(ours, theirs, torch.finfo(value.dtype).eps * size):
            wrong.append(f"{name}: {ours:.2g}, plain {max(theirs):.2g}")
        worst, worst_plain = max(worst, ours / (size or 1)), max(worst_plain, max(theirs) / (size or 1))
    return {"relative error": worst, "of plain PyTorch": worst_plain, "wrong": "; ".join(wrong) or "nothing"}


def check_in_bfloat16(stage: Stage, work: Work) -> None:
    """The errors of backends that take no float32, such as fla, which round more than inputs and outputs."""
    narrow = [name for name in backends_of(work, stage.device.type) if _is_narrow(work.op, name, stage.device.type)]
    if not narrow:
        return
    sequence, fixed, state, reset = draw(work.small, work.T)
    drawn = {n: x.bfloat16().double() for n, x in sequence.items()}, fixed, state, reset
    exact = run(work.small, drawn, "reference", torch.float64)
    rounded = dataclasses.replace(work.small, call=with_halves(work.small.call))
    plain = _relative_errors(run(rounded, drawn, "reference", torch.float32), exact)
    for backend in narrow:
        what = {"op": work.name, "backend": backend}
        stage.attempt(
            "errors over the whole length, bfloat16", what, partial(_worst, rounded, drawn, backend, plain, exact)
        )


def _is_narrow(op: str, name: str, device: str) -> bool:
    return next(b for b in OPS[op] if b.name == name).why_not(device, torch.float32) is not None


def _relative_errors(got: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Of every result, the root mean square of its error over that of its values; infinity where it is not finite."""
    errors = {}
    for name, value in got.items():
        error = (value.double() - exact[name]).norm() / exact[name].norm()
        errors[name] = error.item() if value.isfinite().all() else float("inf")
    return errors


def _worst(case: Case, drawn: tuple, backend: str, plain: dict[str, float], exact: dict[str, Tensor]) -> dict[str, Any]:
    errors = _relative_errors(run(case, drawn, backend, torch.float32), exact)
    worst = max(errors, key=errors.__getitem__)
    return {"relative error": errors[worst], "of plain PyTorch": plain[worst], "in": worst}


def time_all(stage: Stage, work: Work) -> None:
    """Forward and forward with backward, of every backend that can run these inputs."""
    card, drawn = stage.card(), [draw(work.case, work.T) for _ in range(COPIES)]
    bounds = _bounds(work, drawn[0], card)
    contestants: dict[str, tuple[str, bool]] = {}
    for backend in backends_of(work, stage.device.type):
        contestants[backend] = backend, False
        if backend in COMPILED and not stage.tiny:
            contestants[f"{backend}, compiled"] = backend, True
    for name, (backend, compiled) in contestants.items():
        what = {"op": work.name, "backend": name}
        stage.attempt("times, inputs in bfloat16", what, partial(_times, stage, work, drawn, backend, compiled, bounds))


def _times(stage: Stage, work: Work, drawn: list[tuple], backend: str, compiled: bool, bounds: tuple) -> dict[str, Any]:
    case = dataclasses.replace(work.case, backend=backend, call=with_halves(work.case.call))
    run_case = torch.compile(case.run) if compiled else case.run
    least = 0.3 if backend != "reference" else 0.0  # a loop in Python takes its time
    forwards = [partial(forward_only, run_case, *inputs) for inputs in drawn]
    both = [forward_and_backward(run_case, *inputs) for inputs in drawn]
    stage.peak_memory()
    forward, together = stage.seconds(forwards, least=least), stage.seconds(both, least=least)
    return {
        "forward ms": 1e3 * forward,
        "times the bound": forward / bounds[0],
        "forward and backward ms": 1e3 * together,
        "times its bound": together / bounds[1],
        "bound": bounds[2],
        "peak GB": stage.peak_memory(),
    }


@torch.no_grad()
def forward_only(call: Callable, sequence: dict, fixed: dict, state: Any, reset: Tensor | None) -> Any:
    return call(sequence, fixed, state, reset)


def forward_and_backward(
    call: Callable, sequence: dict, fixed: dict, state: Any, reset: Tensor | None
) -> Callable[[], Any]:
    """A call of the op and its backward pass, with the gradients of what a training step needs."""
    sequence, fixed, state = copy(sequence), copy(fixed), copy(state)
    leaves = differentiable(sequence, fixed)
    incoming: list[Tensor] = []

    def both() -> Any:
        y = floats(call(sequence, fixed, state, reset))[0]
        if not incoming:
            incoming.append(torch.randn_like(y))
        return torch.autograd.grad(y, leaves, incoming[0])

    return both


def _bounds(work: Work, drawn: tuple, card: dict[str, float]) -> tuple[float, float, str]:
    """Seconds of forward, of both passes, and what binds forward."""
    sequence, fixed, state, _ = drawn
    with torch.no_grad():
        y = floats(dataclasses.replace(work.case, call=with_halves(work.case.call)).run(*drawn))[0]
    narrow = sum(x.numel() * 2 for x in sequence.values())
    moved = narrow + sum(x.numel() * x.element_size() for x in (y, *fixed.values(), *state_leaves(state)))
    copied = moved / (card["copy GB/s"] * GB)
    rate = 16 * card.get("multiprocessors", 132) * card.get("GHz", 1.7) * 1e9
    squashed = work.tanh * work.T / rate
    forward = max(copied, squashed)
    # Backward reads the inputs and dy again, writes the gradients, and makes the states again with their tanh.
    return forward, forward + max(2 * copied, squashed), "tanh" if squashed > copied else "bytes"


def main() -> None:
    stage = Stage("speed", "Ops at the sizes of models")
    for work in works(stage.tiny):
        stage.attempt("not checked", {"op": work.name}, partial(check, stage, work))
        stage.attempt("not checked in bfloat16", {"op": work.name}, partial(check_in_bfloat16, stage, work))
        stage.attempt("not timed", {"op": work.name}, partial(time_all, stage, work))
        if stage.device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
