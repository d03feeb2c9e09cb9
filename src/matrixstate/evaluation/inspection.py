"""Inspection of matrix states token by token: norm, singular values, decay, and the effect of a single token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matrixstate.errors import DataError
from matrixstate.layers.forget_gate import ForgetGate, LogForgetGate
from matrixstate.layers.mixer import StateMatrices
from matrixstate.models import LanguageModel

LONGEST = 4096  # tokens of a text; all states are held in memory


@dataclass(frozen=True)
class LayerTrace:
    """The states of one layer over a text of T tokens: H heads, matrices R x D.

    A state whose scale is arbitrary, a product of matrices, is scaled to norm sqrt(D); its norm is in `log_norm`.
    """

    layer: int
    """Counted from 0."""
    mixer: str
    """The mixer's class."""
    states: Tensor
    """[T, H, R, D], the state after each token."""
    log_norm: Tensor
    """[T, H], natural logarithm of the state's Frobenius norm."""
    singular: Tensor
    """[T, H, min(R, D)], singular values of `states`, largest first."""
    rank: Tensor
    """[T, H], effective rank: exp of the entropy of the squared singular values divided by their sum."""
    change: Tensor
    """[T, H], norm of the difference from the state before, divided by the state's norm."""
    forget: Tensor | None
    """[T, H], the forget gate f_t; None without one."""
    memory: Tensor
    """[T, H], norm of the difference from the states without one token, divided by the states' norm; 0 before it."""


@dataclass(frozen=True)
class Inspection:
    """The traces of every layer with a matrix state."""

    layers: tuple[LayerTrace, ...]
    dropped: int
    """The token that `memory` leaves out, counted from 0."""

    def data(self) -> dict[str, Any]:
        """Everything but the states as plain data, for JSON."""
        kinds = ("log_norm", "singular", "rank", "change", "forget", "memory")
        layers = []
        for trace in self.layers:
            numbers = {kind: getattr(trace, kind) for kind in kinds}
            plain = {kind: _plain(value) for kind, value in numbers.items() if value is not None}
            layers.append({"layer": trace.layer, "mixer": trace.mixer, **plain})
        return {"dropped": self.dropped, "layers": layers}


@torch.no_grad()
def inspect_states(
    model: LanguageModel,
    tokens: Tensor,
    dropped: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Inspection:
    """Trace all matrix states of a model over a text.

    Args:
        model: put in evaluation mode.
        tokens: [T] int64, 2 <= T <= 4096.
        dropped: the token that `memory` leaves out, counted from 0. Default: that with the largest `change`, averaged
            over heads and layers, outside the first quarter, where states are small and any token changes them much.
        progress: called with the number of tokens read.

    Raises:
        DataError: too few or too many tokens, or a model without a matrix state.

    Cost: two passes token by token, and the singular values of T·H matrices per layer.
    """
    T = len(tokens)
    if not 2 <= T <= LONGEST:
        raise DataError(f"inspect: expected 2 to {LONGEST} tokens, got {T}")
    if dropped is not None and not 0 <= dropped < T:
        raise DataError(f"inspect: the token must be 0 to {T - 1}, got {dropped}")
    model = model.eval()
    seen, gates = _read(model, tokens, torch.ones(T, dtype=torch.bool), progress)
    if not seen:
        raise DataError("inspect: expected a model with a matrix state (such as mru or m2rnn), got none")
    whole = {layer: _stack(parts) for layer, parts in seen.items()}
    changes = {layer: _change(states) for layer, (states, _) in whole.items()}
    if dropped is None:
        first = T // 4
        dropped = first + int(torch.stack([c[first:].mean(dim=1) for c in changes.values()]).mean(dim=0).argmax())
    real = torch.arange(T) != dropped  # the dropped token becomes padding
    without = {layer: _stack(parts) for layer, parts in _read(model, tokens, real, lambda done: None)[0].items()}
    traces = []
    for layer, (states, log_norm) in whole.items():
        singular = torch.linalg.svdvals(states)
        shares = singular.square() / singular.square().sum(dim=-1, keepdim=True).clamp_min(1e-30)
        difference = torch.linalg.matrix_norm(states - without[layer][0])
        memory = difference / torch.linalg.matrix_norm(states).clamp_min(1e-30)
        memory[:dropped] = 0
        name = type(model.layers[layer].mixer).__name__
        gate = torch.stack(gates[layer]) if layer in gates else None
        rank = torch.special.entr(shares).sum(dim=-1).exp()
        traces.append(LayerTrace(layer, name, states, log_norm, singular, rank, changes[layer], gate, memory))
    return Inspection(tuple(traces), dropped)


def _read(
    model: LanguageModel, tokens: Tensor, real: Tensor, progress: Callable[[int], None]
) -> tuple[dict[int, list[tuple[Tensor, Tensor]]], dict[int, list[Tensor]]]:
    """Per layer the (state [H, R, D], log norm [H]) and the forget gate f [H] after every token.

    real: [T] bool, False at tokens that are left out.
    """
    gates: dict[int, list[Tensor]] = {}
    hooks = []
    for layer, block in enumerate(model.layers):
        for module in block.modules():
            if isinstance(module, ForgetGate):
                # a mixer with hooks on its parts does not use its fused step
                hooks.append(module.register_forward_hook(_recorder(gates.setdefault(layer, []))))
    state = model.init_state(1)
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {}
    try:
        for t, token in enumerate(tokens):
            mask = None if bool(real[t]) else torch.zeros(1, 1, dtype=torch.bool, device=model.device)
            _, state = model(token.view(1, 1).to(model.device), state, mask=mask)
            for layer, (block, part) in enumerate(zip(model.layers, state.blocks, strict=True)):
                found = None if block.mixer is None else block.mixer.state_matrices(part)
                if found is not None:
                    seen.setdefault(layer, []).append(_scaled(found))
            progress(t + 1)
    finally:
        for hook in hooks:
            hook.remove()
    return seen, gates


def _recorder(values: list[Tensor]) -> Callable[[ForgetGate, tuple[Any, ...], Tensor], None]:
    """A forward hook of a forget gate that appends f of the first row and step."""

    def record(gate: ForgetGate, inputs: tuple[Any, ...], out: Tensor) -> None:
        f = out.exp() if isinstance(gate, LogForgetGate) else out
        values.append(f[0, 0].detach().cpu())

    return record


def _scaled(found: StateMatrices) -> tuple[Tensor, Tensor]:
    """The state [H, R, D], products scaled to norm sqrt(D), and its log norm [H]; on the CPU."""
    matrix = found.matrix[0].float()
    norm = torch.linalg.matrix_norm(matrix)
    log_norm = norm.clamp_min(1e-30).log()
    if found.product:
        matrix = matrix * (matrix.shape[-1] ** 0.5 / norm.clamp_min(1e-30))[:, None, None]
    log_norm = log_norm if found.log_scale is None else log_norm + found.log_scale[0]
    return matrix.cpu(), log_norm.cpu()


def _stack(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    states, norms = zip(*parts, strict=True)
    return torch.stack(states), torch.stack(norms)


def _change(states: Tensor) -> Tensor:
    """`LayerTrace.change` of states [T, H, R, D]; 1 at the first token, as if every state started at zero."""
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
    return torch.linalg.matrix_norm(states - before) / torch.linalg.matrix_norm(states).clamp_min(1e-30)


def _plain(value: Tensor) -> list[Any]:
    return [[_rounded(v) for v in row] for row in value.tolist()]


def _rounded(value: Any) -> Any:
    """A number, or every number of nested lists, rounded to five digits."""
    return [_rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.5g}")
