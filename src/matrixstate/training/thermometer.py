"""How warm the states run: their size, growth, rank and saturation, read off every few steps of training."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from matrixstate.layers.forget_gate import ForgetGate, LogForgetGate
from matrixstate.layers.mixer import StateMatrices
from matrixstate.models import LanguageModel, ModelState

EVERY = 10  # steps between readings
LIMIT = math.log(torch.finfo(torch.float32).max)
WARM = math.log(1e6)  # below this, no growth is worth a warning
HOT = LIMIT / 2  # at the square root of the largest number, a norm's own square overflows
AHEAD = 300  # steps before the expected overflow at which to warn


@dataclass(frozen=True)
class Reading:
    """One layer's state after the last token of a batch; one number per head, means over the batch's rows."""

    layer: int
    log_norm: tuple[float, ...]
    """Natural logarithm of the Frobenius norm, whatever scale the state is carried in."""
    growth: tuple[float, ...] | None
    """Its mean increase per token, for states that start as the identity."""
    rank: tuple[float, ...]
    """Effective rank of the first row's state: exp of the entropy of its squared singular values' shares."""
    saturated: tuple[float, ...] | None
    """Share of the entries beyond 0.9 of a tanh's reach."""
    forget: tuple[float, ...] | None
    """Mean share of the old state that the forget gate keeps."""
    log_largest: float
    """Natural logarithm of the largest entry as it is stored, over all rows and heads: overflows at 88.7."""

    def data(self) -> dict[str, Any]:
        """Plain data, to four digits."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return {k: _short(v) if isinstance(v, tuple | float) else v for k, v in values.items()}


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(v) for v in value]
    return float(f"{value:.4g}") if math.isfinite(value) else None


class Thermometer:
    """Reads the states of a model in training. `due` says when; the forget gates are listened to only then."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._listening = model, False
        self._gates: dict[int, Tensor] = {}
        for layer, block in enumerate(model.layers):
            for module in block.modules():
                if isinstance(module, ForgetGate):
                    module.register_forward_hook(self._listener(layer))

    def _listener(self, layer: int):
        def listen(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            if self._listening:
                kept = output.detach().exp() if isinstance(module, LogForgetGate) else output.detach()
                self._gates[layer] = kept.flatten(0, -2).mean(dim=0)

        return listen

    def due(self, step: int) -> bool:
        """Whether the coming step (counted from 1) is to be read; prepares for it."""
        self._listening = step % EVERY == 0 or step == 1
        return self._listening

    @torch.no_grad()
    def read(self, state: ModelState, length: int) -> list[Reading]:
        """Readings of all layers that have a matrix state, after `length` tokens."""
        self._listening, readings = False, []
        for layer, (block, part) in enumerate(zip(self._model.layers, state.blocks, strict=True)):
            seen = None if block.mixer is None else block.mixer.state_matrices(part)
            if seen is not None:
                readings.append(_reading(layer, seen, length, self._gates.pop(layer, None)))
        return readings


def _reading(layer: int, seen: StateMatrices, length: int, gate: Tensor | None) -> Reading:
    matrix, tiny = seen.matrix.detach().float(), torch.finfo(torch.float32).tiny
    norm = torch.linalg.matrix_norm(matrix).clamp_min(tiny).log()
    log_norm = (norm if seen.log_scale is None else norm + seen.log_scale).mean(dim=0)
    growth = (log_norm - math.log(matrix.shape[-1]) / 2) / max(length, 1)
    largest = float(matrix.abs().amax().clamp_min(tiny).log())
    return Reading(
        layer,
        _numbers(log_norm),
        _numbers(growth) if seen.product else None,
        _effective_rank(matrix[0]) if math.isfinite(largest) else (math.nan,) * matrix.shape[1],
        _numbers((matrix.abs() > 0.9).float().mean(dim=(0, 2, 3))) if seen.squashed else None,
        None if gate is None else _numbers(gate),
        largest,
    )


def _effective_rank(matrices: Tensor) -> tuple[float, ...]:
    shares = torch.linalg.svdvals(matrices).square()
    shares = shares / shares.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return _numbers(torch.special.entr(shares).sum(dim=-1).exp())


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


class OverflowWatch:
    """Warns when a stored state nears the end of float32, as early as its growth over the steps lets one see it."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []
        self._quiet_until = 0

    def look(self, step: int, readings: Sequence[Reading]) -> str | None:
        """A warning, or None. At most one in a hundred steps."""
        if not readings:
            return None
        worst = max(readings, key=lambda reading: reading.log_largest)
        now = worst.log_largest
        self._seen = [*self._seen[-9:], (step, now)]
        first, then = self._seen[0]
        elapsed = step - first
        rate = (now - then) / elapsed if elapsed > 0 else 0.0
        left = (LIMIT - now) / rate if rate > 0 else math.inf
        hot = not math.isfinite(now) or now > HOT or (now > WARM and left < AHEAD)
        if not hot or step < self._quiet_until:
            return None
        self._quiet_until = step + 100
        when = f"; at this rate float32 overflows in about {left:.0f} steps" if math.isfinite(left) else ""
        size = f"10^{now / math.log(10):.0f}" if math.isfinite(now) else "infinity"
        return f"step {step}: the state of layer {worst.layer} has reached {size}{when}"
